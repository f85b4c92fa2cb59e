"""`gpu-agent tasks`: the newest lines of this node's ledger."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from agent.cli.absent import elsewhere
from agent.cli.options import with_config
from agent.core.text import plain

if TYPE_CHECKING:
    from agent.core.wire import JudgementBody
    from agent.edges.outbox import LedgerLine


@click.command(short_help="Tasks that this node has done.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, a line of the ledger each.")
@with_config
def command(limit: int, as_json: bool, config: object) -> None:
    """Show what the coordinator settled and what was earned, newest first.

    \b
        gpu-agent tasks
        gpu-agent receipt TASK_ID | gpu-agent verify -
    """
    import msgspec

    from agent.config import Config
    from agent.edges.outbox import OUTBOX_NAME, read_ledger
    from agent.edges.proofs import PROOFS_NAME, read_money

    assert isinstance(config, Config)
    lines = read_ledger(config.node.state_dir / OUTBOX_NAME, limit)
    judged = read_money(config.node.state_dir / PROOFS_NAME, limit)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(lines), indent=2))
        return
    click.echo("\n".join([*screen(lines, judged, limit), *elsewhere(config.node.state_dir, "tasks")]))


class _Row(NamedTuple):
    at: float
    task_id: str
    attempt: int
    status: str
    micros: int
    unit: str


def screen(lines: Sequence[LedgerLine], judged: Sequence[JudgementBody] = (), limit: int = 100_000) -> Iterable[str]:
    """For people, newest first, with what judgements cost and verdicts earned; ids and currencies come from outside."""
    rows = [_earned(line) for line in lines] + [_judged(body) for body in judged]
    if not rows:
        yield "No task was settled yet. `gpu-agent status` says why no work comes."
        return
    rows = sorted(rows, key=lambda row: row.at, reverse=True)[:limit]
    width = max(len("TASK"), *(len(_word(row.task_id)) for row in rows))
    yield f"{'SETTLED':<20} {'TASK':<{width}} {'ATTEMPT':>7}  {'STATUS':<11} {'EARNED':>12}"
    for row in rows:
        settled = datetime.datetime.fromtimestamp(row.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        amount = f"{row.micros / 1e6:.6f}"
        yield (
            f"{settled} {_word(row.task_id):<{width}} {row.attempt:>7}  {row.status:<11} "
            f"{amount:>12} {_word(row.unit)}".rstrip()
        )


def _earned(line: LedgerLine) -> _Row:
    return _Row(line.received_at, line.task_id, line.attempt, _ended(line), line.amount_micros, line.currency)


def _ended(line: LedgerLine) -> str:
    """What was accepted may be that there is no answer."""
    from agent.core.model import Outcome
    from agent.core.wire import ReceiptStatus

    if line.status is ReceiptStatus.ACCEPTED and line.outcome not in (None, Outcome.SUCCEEDED):
        return line.outcome.value.replace("_", " ")
    return line.status.value


def _judged(body: JudgementBody) -> _Row:
    if body.earned_micros:
        return _Row(body.judged_at, body.task_id, body.attempt, "verdict", body.earned_micros, body.currency)
    return _Row(body.judged_at, body.task_id, body.attempt, "slashed", -body.slashed_micros, "of the stake")


def _word(text: str) -> str:
    return plain(text, 64).replace("\n", " ")
