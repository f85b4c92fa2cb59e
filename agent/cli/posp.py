"""`gpu-agent posp`: how often results must be challenged, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agent.core.proof.posp import Stakes

NONE_ENOUGH = 1
_MONEY, _SHARE = click.FloatRange(min=0), click.FloatRange(min=0, max=1)
_MUCH = 0.1
"""Of an honest node's margin, lost to mistakes."""


@click.command(short_help="How often results must be challenged, and why.")
@click.option("--stake", required=True, type=_MONEY, help="What a slashed node loses.")
@click.option("--reward", required=True, type=_MONEY, help="For one task.")
@click.option("--cost", required=True, type=_MONEY, help="What cheating saves on one task.")
@click.option("--colluding", default=0.1, show_default=True, type=_SHARE, help="Share of nodes that cover cheats.")
@click.option("--detection", default=1.0, show_default=True, type=_SHARE, help="Of challenged cheats, the share found.")
@click.option(
    "--false-positives", default=0.0, show_default=True, type=_SHARE, help="Of challenged honest results, slashed."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
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
    """For people."""
    from agent.core.proof.posp import rate_micros

    rate = rate_micros(stakes) / 1e6
    if stakes.enough:
        yield click.style(f"challenge {_percent(rate)} of the results at least", bold=True)
    else:
        yield click.style("no share of challenges is enough", bold=True)
    yield ""
    seen, uncovered = _percent(stakes.detection), _percent(1 - stakes.colluding)
    yield f"  Who fakes a task saves {stakes.cost:g}. Who is found out loses reward and stake, {stakes.at_risk:g}."
    yield f"  That takes a challenge (p), a check that sees it ({seen}), and nobody who covers it ({uncovered})."
    yield f"  p > cost / ((detection × (1 − colluding) − false positives) × (reward + stake)) = {stakes.bound:.4f}"
    if not stakes.enough:
        yield from _what_would_be(stakes)
        return
    double = min(1.0, 2 * rate)
    done, faked = stakes.honest(double), stakes.dishonest(double)
    yield f"  Above that honest work pays more: at {_percent(double)} a task brings {done:.3g} done, {faked:.3g} faked."
    yield f"  At {_percent(rate)} a faker is caught after {stakes.fakes_until_caught(rate):.0f} tasks on average."
    yield from _mistakes(stakes, rate)


def _what_would_be(stakes: Stakes) -> Iterable[str]:
    if stakes.conviction <= 0:
        yield "  A challenge does not hit cheats more often than the honest: a better check is needed, no stake helps."
    else:
        yield f"  Even challenging all of them leaves cheating worth it: the stake must be over {stakes.least_stake:g}."


def _mistakes(stakes: Stakes, rate: float) -> Iterable[str]:
    lost, margin = stakes.false_alarms(rate), stakes.reward - stakes.cost
    if not stakes.false_positives:
        return
    if margin <= 0:
        yield f"  Honest work earns nothing beside its cost, and loses {lost:.3f} a task to mistakes."
        return
    yield f"  Mistakes cost an honest node {lost:.4f} a task, {_percent(lost / margin)} of what it earns."
    if lost > _MUCH * margin:
        yield "  That is much: let only repeated or certain findings slash."


def _percent(share: float) -> str:
    return f"{share * 100:.4g} %"
