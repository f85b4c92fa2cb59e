"""The invariants can fail: variants that are broken on purpose are caught. `make sim-mutants` plays all of them."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, broken
from tests.sim.plan import plan_for
from tests.sim.world import Outcome, play

STEPS = 20_000
QUICK = {
    # variant: what must notice it
    "the coordinator ignores the fence of a result": {"stale fence accepted"},
    "the outbox row is deleted before the receipt": {"drain loses work", "result lost", "not live"},
    "leases expire by the wall clock": {"lease outlived", "two compute at once", "not live"},
    "a lease counts from the answer": {"lease outlived", "two compute at once"},
    "a start is not confirmed": {"lease outlived", "two compute at once"},
    "busy slots are not counted": {"credits"},
    "a receipt is believed whatever it is for": {"wrong receipt"},
    "a duplicate is paid again": {"paid twice"},
    "the outbox acknowledges before it writes": {"result lost", "drain loses work", "forgotten in hello"},
    "hello forgets what is unsent": {"forgotten in hello"},
    "the coordinator replies before it writes": {"receipt not durable", "task not closed", "coordinator fault"},
    "a node does not watch its leases": {"two compute at once"},
    "fences start again after a restart": {"fence", "stale fence accepted"},
    "stopped work goes on": {"two compute at once"},
}
"""Those that fall within a few seeds."""


def _caught(name: str, seeds: range) -> Outcome | None:
    with broken(*MUTANTS[name]):
        outcomes = (play(plan_for(seed, STEPS)) for seed in seeds)
        return next((outcome for outcome in outcomes if outcome.violation), None)


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_variant_is_caught(name: str) -> None:
    caught = _caught(name, range(1, 25))
    assert caught is not None
    assert caught.violation is not None
    assert caught.violation.name in QUICK[name], caught.violation
