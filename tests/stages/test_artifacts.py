"""What a program left, on its way to the coordinator with its result."""

from __future__ import annotations

from agent.core import wire
from agent.core.errors import LinkError, LinkFault, StorageError
from agent.core.model import Reason, State
from agent.ports import OutboxRow
from tests import builders
from tests.stages.rig import Rig

KEY = builders.offer().key


def _unreachable(_message: object) -> wire.DownMessage:
    raise LinkError(LinkFault.UNREACHABLE, "the line is cut")


async def test_a_result_waits_for_its_artifact_until_that_can_be_read_again() -> None:
    async with Rig() as rig:
        rig.artifacts.kept[KEY] = b"made"
        rig.artifacts.fails = StorageError("Input/output error")
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: rig.deliver.unsent)
        await rig.pass_time(3.0)
        assert rig.coordinator.sent(wire.Result) == []
        rig.artifacts.fails = None
        await rig.pass_time(70.0, step_s=1.0)
        result = await rig.coordinator.saw(wire.Result)
        assert rig.coordinator.blobs[result.deliveries[0].artifact] == b"made"
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.artifacts.kept == {}


async def test_a_result_whose_artifact_was_lost_goes_without_it() -> None:
    async with Rig() as rig:
        rig.artifacts.kept[KEY] = None
        rig.coordinator.offer(builders.offer())
        result = await rig.coordinator.saw(wire.Result)
        assert result.deliveries[0].artifact is None


async def test_a_result_that_the_outbox_lost_takes_its_artifact_with_it() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = _unreachable
        rig.artifacts.kept[KEY] = b"made"
        rig.coordinator.offer(builders.offer())
        await rig.coordinator.saw(wire.Result)
        rig.outbox.rows.clear()
        await rig.pass_time(70.0, step_s=1.0)
        assert rig.deliver.unsent == {}
        assert rig.artifacts.kept == {}


async def test_a_second_result_of_one_attempt_takes_its_artifact_with_it_unless_the_first_still_needs_it() -> None:
    for waits in (False, True):
        async with Rig() as rig:
            rig.coordinator.answers[wire.Result] = _unreachable
            rig.engine.go.clear()
            rig.coordinator.offer(builders.offer())
            await rig.engine.began.wait()
            earlier = OutboxRow(key=KEY, idem_key="earlier", offer=builders.signed(), result=builders.signed())
            await rig.outbox.put(earlier)
            if waits:
                rig.deliver.take(earlier)
            rig.artifacts.kept[KEY] = b"made"
            rig.engine.go.set()
            await rig.until(lambda rig=rig: not rig.node.held() or not rig.node.attempts)
            assert list(rig.artifacts.kept) == [KEY] * waits


async def test_what_a_program_left_goes_when_its_task_is_cancelled_while_it_is_being_kept() -> None:
    async with Rig() as rig:
        rig.transcripts.fails = StorageError("no space left", full=True)
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: KEY in rig.node.attempts and rig.node.attempts[KEY].state is State.PROVING)
        rig.artifacts.kept[KEY] = b"made"
        rig.coordinator.push(wire.Cancel(key=KEY, reason=Reason.CANCELLED_BY_REQUESTER))
        await rig.until(lambda: not rig.node.attempts)
        rig.transcripts.fails = None
        await rig.pass_time(10.0, step_s=1.0)
        assert rig.artifacts.kept == {}
