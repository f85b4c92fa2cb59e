"""`gpu-agent proofs`: what of this node's work was challenged, what it opened, and how it was judged."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from agent.cli.absent import elsewhere
from agent.cli.options import with_config
from agent.cli.table import headed
from agent.core.text import counted, line, span

_DETAIL = 160
_ANSWERS = {"asked": "is being answered", "opened": "opened", "refused": "refused", "missed": "not answered in time"}
_JUDGED = ("passed", "suspect", "failed", "unopened", "void")


@click.command(short_help="What was challenged, and how it was judged.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many of each.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object (core/challenges.py, ProofStory).")
@with_config
def command(limit: int, as_json: bool, config: object) -> None:
    """Show challenges and judgements, newest first, and what is left of the stake.

    \b
        gpu-agent proofs

    It asks the daemon when that runs, else its disk.
    """
    from agent.config import Config

    assert isinstance(config, Config)
    told = _story(config.control_socket, config.node.state_dir, limit)
    if as_json:
        import json

        click.echo(json.dumps(told, indent=2))
        return
    click.echo("\n".join([*screen(told), *elsewhere(config.node.state_dir, "proofs")]))


def _story(socket: Path, state_dir: Path, limit: int) -> dict[str, Any]:
    import msgspec

    from agent.cli import local
    from agent.edges.proofs import PROOFS_NAME, read_proofs

    try:
        return local.ask(socket, "GET", f"/v1/proofs?limit={limit}")
    except (local.Unreachable, local.Refused):  # it does not run, or is still starting: its disk knows nearly as much
        told: dict[str, Any] = msgspec.to_builtins(read_proofs(state_dir / PROOFS_NAME, limit))
        return told


def screen(told: dict[str, Any]) -> Iterable[str]:
    """A ProofStory as JSON, for people; everything in it may come from outside."""
    challenges, judgements = told["challenges"], told["judgements"]
    if not challenges and not judgements:
        yield "Nothing was challenged yet. A coordinator draws some results by chance, a minute or so after they came."
        return
    yield summary(told["totals"])
    yield from headed(("CHALLENGED", "TASK", "ATTEMPT", "WHY", "LEAVES", "ANSWER"), map(_challenge, challenges))
    head = ("JUDGED", "TASK", "ATTEMPT", "WORK", "EARNED", "SLASHED", "STAKE", "JUDGEMENT")
    yield from headed(head, map(_judgement, judgements))


def summary(totals: dict[str, Any]) -> str:
    """ProofTotals as JSON, on one line: `3 challenged, 3 passed; stake 10.0`."""
    challenges = totals.get("challenges", {})
    said = [f"{sum(challenges.values())} challenged"]
    words = {"asked": "being answered", "refused": "refused", "missed": "not answered in time"}
    said += [f"{challenges[outcome]} {word}" for outcome, word in words.items() if challenges.get(outcome)]
    judged = {(it["subject"], it["judgement"]): it["count"] for it in totals.get("judgements", ())}
    said += [f"{judged['answer', kind]} {kind}" for kind in _JUDGED if judged.get(("answer", kind))]
    said += [
        f"{counted(judged['verdict', kind], 'verdict')} {kind}" for kind in _JUDGED if judged.get(("verdict", kind))
    ]
    if earned_micros := totals.get("earned_micros", 0):
        said.append(f"earned {earned_micros / 1e6:.6f} {line(totals.get('currency', ''), 32)} by verdicts")
    if totals.get("barred"):
        said.append("no checks by the latest judgement")
    if (stake_micros := totals.get("stake_micros")) is None:
        return ", ".join(said)
    slashed_micros = totals.get("slashed_micros", 0)
    lost = f", {slashed_micros / 1e6} slashed" if slashed_micros else ""
    return f"{', '.join(said)}; stake {stake_micros / 1e6}{lost}"


def _challenge(told: dict[str, Any]) -> tuple[str, ...]:
    leaves = told.get("leaves", 0)
    return (
        _moment(told["asked_at"]),
        line(told["task_id"], 64),
        str(told["attempt"]),
        "drawn" if told["kind"] == "drawn" else "verdict revealed",
        str(leaves) if leaves else "all",
        _answer(told),
    )


def _answer(told: dict[str, Any]) -> str:
    said = _ANSWERS.get(told["outcome"], line(told["outcome"], 64))
    if told.get("refusal"):
        said += f" ({line(told['refusal'], 32)})"
    if told.get("opened_bytes"):
        said += f", {told['opened_bytes'] / 1024:,.0f} KiB"
    if (answered_at := told.get("answered_at")) is not None and told["outcome"] == "opened":
        said += f" after {span(answered_at - told['asked_at'])}"
    return said + (f": {line(told['detail'], _DETAIL)}" if told.get("detail") else "")


def _judgement(told: dict[str, Any]) -> tuple[str, ...]:
    slashed_micros, detail = told.get("slashed_micros", 0), line(told.get("detail", ""), _DETAIL)
    validators = told.get("validators", 0)
    by = f" by {counted(validators, 'validator')}" if validators else ""
    return (
        _moment(told.get("judged_at", 0)),
        line(told["task_id"], 64),
        str(told["attempt"]),
        line(told["subject"], 32),
        _money(told.get("earned_micros", 0), told.get("currency", "")),
        f"{slashed_micros / 1e6}" if slashed_micros else "",
        f"{told.get('stake_micros', 0) / 1e6}",
        line(told["judgement"], 32) + by + (f": {detail}" if detail else ""),
    )


def _money(micros: int, currency: str) -> str:
    return f"{micros / 1e6:.6f} {line(currency, 32)}".rstrip() if micros else ""


def _moment(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
