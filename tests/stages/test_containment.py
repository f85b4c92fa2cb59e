"""One fault, one attempt."""

from __future__ import annotations

import asyncio

import pytest

from agent.core import events as ev
from agent.core.attempt import Event
from agent.core.errors import EngineError
from agent.core.model import LeaseKey, Reason
from agent.core.node import Node
from agent.stages.containment import contained
from agent.stages.spine import Spine
from tests import builders
from tests.fakes.clock import ManualClock

KEY = LeaseKey(task_id="t1", attempt=1, fence=1)


class Listening(Spine):
    """Remembers what it is fed."""

    def __init__(self) -> None:
        super().__init__(Node(builders.NODE), ManualClock())
        self.fed: list[ev.NodeEvent] = []

    def feed(self, event: ev.NodeEvent) -> None:
        self.fed.append(event)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (EngineError(Reason.ENGINE_CRASHED, "it is gone"), Reason.ENGINE_CRASHED),
        (ZeroDivisionError("a bug"), Reason.INTERNAL),
    ],
)
async def test_what_goes_wrong_ends_the_attempt_with_its_reason(fault: Exception, reason: Reason) -> None:
    async def work() -> None:
        raise fault

    spine = Listening()
    await contained(spine, KEY, work)
    [told] = spine.fed
    assert isinstance(told, ev.Happened)
    assert (told.key, told.event, told.reason) == (KEY, Event.FAILED, reason)


async def test_a_task_that_is_cancelled_before_it_began_makes_no_coroutine() -> None:
    made: list[object] = []

    async def work() -> None:
        raise AssertionError("it never runs")

    def make():
        made.append(coroutine := work())
        return coroutine

    spine = Listening()
    task = asyncio.create_task(contained(spine, KEY, make))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert (made, spine.fed) == ([], [])
