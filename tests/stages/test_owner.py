"""The owner's stage on a clock of its own: gates follow what it sees, and the machine is cleared in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from agent.core.model import Outcome, Reason
from agent.core.owner import Observed, OwnerPolicy
from agent.core.schedule import parse_window
from agent.core.watchdog import Pulse
from agent.stages.owner import LOOK_EVERY_S, Owner
from tests import builders
from tests.stages.rig import Rig

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EVENING = NOON.replace(hour=20)


class View:
    """Implements ports.OwnerView; a test says what is seen."""

    def __init__(self, seen: Observed) -> None:
        self.seen = seen
        self.looks = 0

    def look(self, wall: float) -> Observed:
        self.looks += 1
        return self.seen


@contextlib.asynccontextmanager
async def owned(rig: Rig, view: View, *, hand_back_after_s: float | None = None) -> AsyncIterator[None]:
    idle_after_s = None if view.seen.away_s is None else 300.0
    policy = OwnerPolicy(zone=UTC, windows=(parse_window("18:00-08:00"),), idle_after_s=idle_after_s)
    task = asyncio.create_task(
        Owner(rig.spine, policy, view, Pulse({"owner": 60.0}, started=0.0), hand_back_after_s=hand_back_after_s).run()
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def shut(rig: Rig) -> list[Reason]:
    return [gate.reason for gate in rig.node.gates()]


async def test_the_gate_follows_the_schedule() -> None:
    view = View(Observed(at=NOON))
    async with Rig() as rig, owned(rig, view):
        await rig.until(lambda: shut(rig) == [Reason.OUTSIDE_SCHEDULE])
        assert rig.node.credit("main") is None
        view.seen = Observed(at=EVENING)
        rig.clock.advance(LOOK_EVERY_S)
        await rig.until(lambda: shut(rig) == [])
        view.seen = Observed(at=EVENING, programs=frozenset({"blender"}))
        rig.clock.advance(LOOK_EVERY_S)
        await rig.until(lambda: shut(rig) == [Reason.OWNER_PROGRAM])


async def running(rig: Rig) -> None:
    rig.engine.go.clear()
    rig.coordinator.offer(builders.offer())
    await rig.engine.began.wait()


async def test_what_runs_may_finish_where_the_owner_says_so() -> None:
    view = View(Observed(at=EVENING))
    async with Rig() as rig, owned(rig, view):
        await running(rig)
        view.seen = Observed(at=NOON)
        rig.clock.advance(LOOK_EVERY_S)
        await rig.until(lambda: shut(rig))
        rig.engine.go.set()
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.node.counts[Outcome.SUCCEEDED] == 1


async def test_what_runs_is_handed_back_when_the_owner_has_waited_long_enough() -> None:
    view = View(Observed(at=EVENING))
    async with Rig() as rig, owned(rig, view, hand_back_after_s=12.0):
        await running(rig)
        view.seen = Observed(at=NOON)
        rig.clock.advance(LOOK_EVERY_S)
        await rig.until(lambda: shut(rig))
        assert rig.node.held()
        for looks in range(view.looks, view.looks + 3):
            rig.clock.advance(LOOK_EVERY_S)
            await rig.until(lambda seen=looks: view.looks > seen)
        await rig.until(lambda: rig.outbox.ledger)
        (body,) = rig.coordinator.results()
        assert (body.outcome, body.reason) == (Outcome.HANDED_BACK, Reason.OUTSIDE_SCHEDULE)


async def test_somebody_who_sits_down_at_the_machine_gets_it_back_at_once_where_he_says_so() -> None:
    view = View(Observed(at=EVENING, away_s=600.0))
    async with Rig() as rig, owned(rig, view, hand_back_after_s=0.0):
        await running(rig)
        view.seen = Observed(at=EVENING, away_s=0.0)
        rig.clock.advance(LOOK_EVERY_S)
        await rig.until(lambda: rig.outbox.ledger)
        (body,) = rig.coordinator.results()
        assert (body.outcome, body.reason) == (Outcome.HANDED_BACK, Reason.OWNER_ACTIVE)
        assert shut(rig) == [Reason.OWNER_ACTIVE]


async def test_what_the_owner_says_otherwise_holds_at_once_and_what_was_seen_by_his_old_word_counts_no_more() -> None:
    view = View(Observed(at=NOON))
    async with Rig() as rig:
        policy = OwnerPolicy(zone=UTC, windows=(parse_window("18:00-08:00"),))
        owner = Owner(rig.spine, policy, view, Pulse({"owner": 60.0}, started=0.0), hand_back_after_s=None)
        task = asyncio.create_task(owner.run())
        await rig.until(lambda: shut(rig) == [Reason.OUTSIDE_SCHEDULE])
        owner.obey(OwnerPolicy(zone=UTC), View(Observed(at=NOON)), hand_back_after_s=None)
        await rig.until(lambda: shut(rig) == [])
        in_use = View(Observed(at=NOON, programs=frozenset({"blender"})))
        owner.obey(OwnerPolicy(zone=UTC), in_use, hand_back_after_s=None)
        await rig.until(lambda: shut(rig) == [Reason.OWNER_PROGRAM])
        task.cancel()
