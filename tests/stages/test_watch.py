"""The watchdog sees every loop: also those that act on demand and may rest for days."""

from __future__ import annotations

import asyncio

from agent.compose import BOUNDS_S
from agent.core import events as ev
from agent.core.node import Node
from agent.core.watchdog import Pulse
from agent.stages.spine import Spine
from agent.stages.watch import Watch
from tests import builders
from tests.fakes.clock import ManualClock


async def turn(clock: ManualClock, pulse: Pulse) -> None:
    """A second of a living link."""
    await clock.somebody_sleeps()
    pulse.answered(clock.monotonic())
    clock.advance(1.0)
    await asyncio.sleep(0)


async def test_a_loop_that_takes_nothing_of_what_waits_is_named_and_one_that_rests_is_not() -> None:
    clock = ManualClock()
    spine = Spine(Node(builders.NODE), clock)
    working, dead = spine.mailbox(ev.Prove), spine.mailbox(ev.StopWork)
    pulse = Pulse({"watch": 60.0, "prove": 60.0, "execute": 60.0}, started=clock.monotonic())
    tallies = {"prove": working.tally, "execute": dead.tally}
    watching = asyncio.create_task(Watch(spine, pulse, tallies).run())
    try:
        for _ in range(1000):
            await turn(clock, pulse)
        assert pulse.stalled(clock.monotonic()) == ()
        for _ in range(61):
            working.put_nowait("a command")
            dead.put_nowait("another")
            await turn(clock, pulse)
            working.get_nowait()
        [told] = pulse.stalled(clock.monotonic())
        assert "execute" in told
    finally:
        watching.cancel()


def test_every_loop_of_the_path_has_a_bound() -> None:
    path = {"probe", "advertise", "pull", "execute", "stream", "prove", "store", "report", "watch"}
    assert path <= BOUNDS_S.keys()
