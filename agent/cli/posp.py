"""`gpu-agent posp`: how often results must be challenged, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from agent.cli.options import FiniteRange
from agent.cli.table import table
from agent.core.text import counted

if TYPE_CHECKING:
    from agent.core.proof.posp import Stakes

NONE_ENOUGH = 1
_MONEY, _SHARE = FiniteRange(min=0, max=1e12), FiniteRange(min=0, max=1)
_MUCH = 0.1
"""Of an honest node's margin, lost to mistakes."""


@click.command(short_help="How often results must be challenged, and why.")
@click.option("--stake", default=10.0, show_default=True, type=_MONEY, help="What a slashed node loses.")
@click.option("--reward", default=1.0, show_default=True, type=_MONEY, help="What a node is paid for one task.")
@click.option("--cost", default=0.5, show_default=True, type=_MONEY, help="What cheating saves on one task.")
@click.option("--colluding", default=0.1, show_default=True, type=_SHARE, help="Share of nodes that cover cheats.")
@click.option("--detection", default=1.0, show_default=True, type=_SHARE, help="Of challenged cheats, the share found.")
@click.option(
    "--false-positives", default=0.0, show_default=True, type=_SHARE, help="Of challenged honest results, slashed."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every figure.")
def command(
    stake: float,
    reward: float,
    cost: float,
    colluding: float,
    detection: float,
    false_positives: float,
    as_json: bool,
) -> int:
    """The share of results that must be challenged so that honest work pays more than cheating (docs/proof.md).

    \b
        gpu-agent posp --stake 2 --reward 0.03 --cost 0.03 --detection 0.5

    Money is in any one unit. Exit status: 0, or 1 when no share is enough.
    """
    from agent.core.proof.posp import Stakes

    stakes = Stakes(stake, reward, cost, colluding, detection, false_positives)
    if as_json:
        import json

        click.echo(json.dumps(as_object(stakes), indent=2))
    else:
        click.echo("\n".join(told(stakes)))
    return 0 if stakes.enough else NONE_ENOUGH


def as_object(stakes: Stakes) -> dict[str, object]:
    """For programs; what is infinite is null."""
    from math import isfinite

    from agent.core.proof.posp import rate_micros

    rate = rate_micros(stakes) / 1e6
    figures = {
        "bound": stakes.bound,
        "rate": rate,
        "honest": stakes.honest(rate),
        "dishonest": stakes.dishonest(rate),
        "false_alarms": stakes.false_alarms(rate),
        "fakes_until_caught": stakes.fakes_until_caught(rate),
        "least_stake": stakes.least_stake,
    }
    told = {name: value if isfinite(value) else None for name, value in figures.items()}
    return {**stakes._asdict(), "enough": stakes.enough, "rate_micros": rate_micros(stakes), **told}


def told(stakes: Stakes) -> Iterable[str]:
    """For people, on one screen."""
    from agent.core.proof.posp import rate_micros

    rate = rate_micros(stakes) / 1e6
    head = (
        f"challenge {_percent(rate)} of the results at least" if stakes.enough else "no share of challenges is enough"
    )
    yield click.style(head, bold=True)
    yield from ("", *_WHY, "")
    yield from table(_figures(stakes))
    yield ""
    if not stakes.enough:
        yield from _what_would_be(stakes)
        return
    yield f"  Cheating does not pay when {_inequality(stakes)}."
    yield "  That is the least --challenge-rate for a coordinator."
    yield ""
    rates = sorted({rate / 2, rate, min(1.0, 2 * rate)})
    yield from table(
        [("  p", "a task done brings", "a task faked brings", "a faker is caught after"), *_rows(stakes, rates)]
    )
    yield from _mistakes(stakes, rate)


_WHY = (
    "  Repeating every result would double the cost of all work. So only a share p is challenged, drawn",
    "  by chance that nobody foresees: the node must then show its work, and others repeat some of it.",
    "  A cheat gains a little each time and loses much when found out: where p is enough, honest work pays.",
)


def _figures(stakes: Stakes) -> Iterable[tuple[str, str, str]]:
    yield "  a faked task saves the node", f"{stakes.cost:g}", "--cost"
    yield "  being found out costs it reward and stake", f"{stakes.at_risk:g}", "--reward + --stake"
    yield "  a check sees a challenged cheat in", _percent(stakes.detection), "--detection"
    yield "  whoever checks covers it up in", _percent(stakes.colluding), "--colluding"
    if stakes.false_positives:
        yield "  a challenged honest result is punished in", _percent(stakes.false_positives), "--false-positives"


def _inequality(stakes: Stakes) -> str:
    """With numbers in it: `p × 100 % × 90 % × 11 > 0.5, so p > 0.0505`."""
    hit = f"{_percent(stakes.detection)} × {_percent(1 - stakes.colluding)}"
    if stakes.false_positives:
        hit = f"({hit} − {_percent(stakes.false_positives)})"
    return f"p × {hit} × {stakes.at_risk:g} > {stakes.cost:g}, so p > {stakes.bound:.3g}"


def _rows(stakes: Stakes, rates: Iterable[float]) -> Iterable[tuple[str, str, str, str]]:
    for rate in rates:
        done, faked = stakes.honest(rate), stakes.dishonest(rate)
        pays = "  cheating pays" if faked > done else ""
        caught = f"{counted(round(stakes.fakes_until_caught(rate)), 'task')}{pays}"
        yield f"  {_percent(rate)}", _money(done), _money(faked), caught


def _money(amount: float) -> str:
    return f"{round(amount, 3) + 0.0:.3f}"  # no -0.000


def _what_would_be(stakes: Stakes) -> Iterable[str]:
    if stakes.conviction <= 0:
        yield "  A challenge does not hit cheats more often than the honest: a better check is needed, no stake helps."
    else:
        yield f"  Even challenging all of them leaves cheating worth it: the stake must be over {stakes.least_stake:g}."


def _mistakes(stakes: Stakes, rate: float) -> Iterable[str]:
    lost, margin = stakes.false_alarms(rate), stakes.reward - stakes.cost
    if not stakes.false_positives and margin >= 0:
        return
    yield ""
    if margin < 0:
        yield f"  Honest work, too, loses {lost - margin:.3f} a task: nobody does it for a reward below its cost."
        return
    if margin == 0:
        yield f"  Honest work earns nothing beside its cost, and loses {lost:.3f} a task to mistakes."
        return
    yield f"  Mistakes cost an honest node {lost:.4f} a task, {_percent(lost / margin)} of what it earns."
    if lost > _MUCH * margin:
        yield "  That is much: let only repeated or certain findings slash."


def _percent(share: float) -> str:
    return f"{share * 100:.4g} %"
