"""Leaving: SIGTERM drains, a second one or SIGQUIT aborts; nothing is lost either way."""

from __future__ import annotations

import asyncio

from agent.core import events as ev
from agent.core import wire
from agent.core.model import Outcome, Reason
from agent.core.node import NodeState
from tests import builders
from tests.patience import within
from tests.stages.rig import Rig


async def test_a_drain_finishes_what_runs_and_says_goodbye() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        leaving = asyncio.create_task(rig.drain.leave(60.0, asyncio.Event()))
        await rig.until(lambda: rig.coordinator.sent(wire.Beat)[-1].state == "draining")
        rig.coordinator.answers[wire.Pull] = lambda _m: wire.Offers()  # the parked pull is let go
        rig.coordinator.offer(builders.offer("late"))
        rig.engine.go.set()
        await within(leaving)
        assert isinstance(rig.coordinator.messages[-1], wire.Bye)
        assert rig.outbox.ledger[builders.offer().idem_key].status is wire.ReceiptStatus.ACCEPTED
        assert rig.coordinator.sent(wire.Decline)[0].reason is Reason.DRAINING
        assert rig.engine.started == 1


async def test_an_abort_hands_running_work_back_at_once() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        abort = asyncio.Event()
        leaving = asyncio.create_task(rig.drain.leave(60.0, abort))
        await rig.until(lambda: rig.coordinator.sent(wire.Beat)[-1].state == "draining")
        abort.set()
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.HANDED_BACK, Reason.ABORTED)
        assert rig.engine.stopped == 1
        rig.coordinator.offer(builders.offer("late"))  # ends the parked pull
        await within(leaving)


async def test_a_drain_at_its_limit_hands_back_with_that_reason() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        leaving = asyncio.create_task(rig.drain.leave(8.0, asyncio.Event()))
        await rig.until(lambda: rig.coordinator.sent(wire.Beat)[-1].state == "draining")
        rig.coordinator.offer(builders.offer("late"))
        await rig.pass_time(8.5)
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.HANDED_BACK, Reason.DRAIN_LIMIT)
        await within(leaving)


async def test_no_resume_undoes_leaving() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        leaving = asyncio.create_task(rig.drain.leave(60.0, asyncio.Event()))
        await rig.until(lambda: rig.coordinator.sent(wire.Beat)[-1].state == "draining")
        rig.spine.feed(ev.ResumeAsked())
        assert rig.node.credit("main") is None
        assert rig.node.state is NodeState.DRAINING
        rig.engine.go.set()
        rig.coordinator.offer(builders.offer("late"))  # ends the parked pull
        await within(leaving)
        assert rig.engine.started == 1
