"""`gpu-agent tasks`: the newest lines of this node's ledger."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from agent.cli.options import with_config
from agent.core.text import plain

if TYPE_CHECKING:
    from agent.edges.outbox import LedgerLine


@click.command(short_help="Tasks that this node has done.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array.")
@with_config
def command(limit: int, as_json: bool, config: object) -> None:
    """Show what the coordinator settled, newest first."""
    import msgspec

    from agent.config import Config
    from agent.edges.outbox import OUTBOX_NAME, read_ledger

    assert isinstance(config, Config)
    lines = read_ledger(config.node.state_dir / OUTBOX_NAME, limit)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(lines), indent=2))
        return
    for line in screen(lines):
        click.echo(line)


def screen(lines: Sequence[LedgerLine]) -> Iterable[str]:
    """For people; task ids and currencies come from outside."""
    if not lines:
        yield "No task was settled yet."
        return
    width = max(len("TASK"), *(len(_word(line.task_id)) for line in lines))
    yield f"{'SETTLED':<20} {'TASK':<{width}} {'ATTEMPT':>7}  {'STATUS':<10} {'EARNED':>12}"
    for line in lines:
        settled = datetime.datetime.fromtimestamp(line.received_at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        amount = f"{line.amount_micros / 1e6:.6f}"
        yield (
            f"{settled} {_word(line.task_id):<{width}} {line.attempt:>7}  {line.status.value:<10} "
            f"{amount:>12} {_word(line.currency)}".rstrip()
        )


def _word(text: str) -> str:
    return plain(text, 64).replace("\n", " ")
