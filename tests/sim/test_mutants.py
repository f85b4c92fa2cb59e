"""The invariants can fail: variants that are broken on purpose are caught. `make sim-mutants` plays all of them."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, broken
from tests.sim.plan import plan_for
from tests.sim.world import Outcome, play

STEPS = 20_000
QUICK = (
    "the coordinator ignores the fence of a result",
    "the outbox row is deleted before the receipt",
    "no margin",
    "busy slots are not counted",
    "a duplicate is paid again",
    "the outbox acknowledges before it writes",
    "a result is released without its transcript",
    "a transcript is acknowledged before it is written",
    "a transcript is kept for no time",
    "a sweep takes what is still due",
    "hello forgets what is unsent",
    "the coordinator replies before it writes",
    "fences start again after a restart",
    "stopped work goes on",
    "openings are not answered",
    "the coordinator forgets judgements",
    "a verdict is rewarded twice",
    "an opening is acknowledged before it is written",
    "an artifact is never dropped",
    "a result goes without its artifact",
)
"""Those that fall within a few seeds."""


def _caught(name: str, seeds: range) -> Outcome | None:
    with broken(*MUTANTS[name]):
        outcomes = (play(plan_for(seed, STEPS)) for seed in seeds)
        return next((outcome for outcome in outcomes if outcome.violation), None)


def test_every_variant_changes_parts_that_there_are() -> None:
    patches = [patch for each in MUTANTS.values() for patch in each]
    assert [(place, name) for place, name, _ in patches if not hasattr(place, name)] == []


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_variant_is_caught(name: str) -> None:
    caught = _caught(name, range(1, 80))
    assert caught is not None
