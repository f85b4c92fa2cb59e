"""A node that is asked whether its GPU is one: it clears the GPU, answers in turn, and nothing else waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from agent.core import events as ev
from agent.core import wire
from agent.core.attest.budget import APART_S, MOST_S, WINDOW_S
from agent.core.attest.messages import (
    CPU,
    Attestation,
    MatrixAgain,
    MatrixAsked,
    MatrixCommitted,
    MatrixDrawn,
    MatrixGo,
    MatrixJudged,
    MatrixOpened,
    MatrixReady,
    MatrixReread,
    OpenedBlock,
    OpenedRow,
    Standing,
    Work,
)
from agent.core.errors import AttestError, LinkError, LinkFault
from agent.core.model import Reason
from agent.stages.attest import BUSY, CLEAR_S, TOO_LONG, Attest
from tests import builders
from tests.stages.paper import DOWN
from tests.stages.rig import Rig

QUESTION = MatrixAsked(challenge_id="m-1", devices=("GPU-1",), columns=64, answer_s=900)
WORK = Work(device="GPU-1", rows=256, kept=256)
ROW = OpenedRow(first=OpenedBlock(digests=b"", path=b""))
VERDICT = Attestation(device="GPU-1", standing=Standing.ATTESTED, gops=1_000_000)


class PaperMatrix:
    """Implements ports.MatrixEngine: answers at once, unless a test holds it or lets it fail."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.began = asyncio.Event()
        self.fails = ""
        self.missing = ""
        self.computes = asyncio.Event()
        self.computes.set()
        self.done: list[str] = []
        self.devices = 0

    def check(self, devices: Sequence[str]) -> None:
        if self.missing:
            raise AttestError(f"{self.missing} is not installed")

    async def prepare(self, devices: Sequence[str], columns: int) -> tuple[int, ...]:
        self.began.set()
        self.devices = len(devices)
        await self.go.wait()
        self._do("prepare")
        return (1 << 20,) * len(devices)

    async def commit(self, seed: str, works: Sequence[Work], timeout_s: float) -> tuple[str, ...]:
        self._do("commit")
        await self.computes.wait()
        return ("aa",) * len(works)

    async def reread(self, seed: str, timeout_s: float) -> tuple[tuple[str, ...], ...]:
        self._do("reread")
        return (("bb",),) * self.devices

    async def open(self, rows: Sequence[Sequence[int]], timeout_s: float) -> tuple[tuple[OpenedRow, ...], ...]:
        self._do("open")
        return tuple((ROW,) * len(numbers) for numbers in rows)

    async def close(self) -> None:
        self.done.append("close")

    def _do(self, step: str) -> None:
        if step == self.fails:
            raise AttestError(f"{step} failed")
        self.done.append(step)


@contextlib.asynccontextmanager
async def on_gpu() -> AsyncIterator[Rig]:
    """A node with a pool on GPU-1, and a coordinator that answers as it should."""
    async with Rig() as rig:
        rig.engine.facts = msgspec.structs.replace(rig.engine.facts, device="GPU-1")
        rig.pool_ready(True)
        honest(rig)
        yield rig


@contextlib.asynccontextmanager
async def asked(engine: PaperMatrix | None, question: MatrixAsked = QUESTION) -> AsyncIterator[tuple[Rig, Attest]]:
    """A node with a pool on GPU-1, to which the question has come."""
    async with on_gpu() as rig:
        attest = Attest(rig.spine, rig.caller, engine)
        task = asyncio.create_task(attest.run())
        attest.asked(question)
        try:
            yield rig, attest
        finally:
            task.cancel()
            await asyncio.wait([task])


def honest(rig: Rig) -> None:
    answers = rig.coordinator.answers
    answers[MatrixReady] = lambda it: (
        MatrixGo() if it.refusal else MatrixGo(seed="11" * 32, works=(WORK,) * len(it.free_bytes))
    )
    answers[MatrixCommitted] = lambda it: MatrixAgain(seed="22" * 32)
    answers[MatrixReread] = lambda it: MatrixDrawn(rows=((3, 5),) * len(it.roots))
    answers[MatrixOpened] = lambda it: MatrixJudged(attestations=(VERDICT,))


def reasons(rig: Rig) -> list[Reason]:
    return [gate.reason for gate in rig.node.gates()]


async def test_the_verdict_is_kept_for_the_status_and_the_engine_let_go() -> None:
    engine = PaperMatrix()
    async with asked(engine) as (rig, attest):
        await rig.until(lambda: attest.found)

        assert attest.found == {"GPU-1": VERDICT}
        await rig.until(lambda: engine.done == ["prepare", "commit", "reread", "open", "close"])
        (opened,) = rig.coordinator.sent(MatrixOpened)
        assert opened.rows == ((ROW, ROW),)


async def test_the_gpu_takes_no_work_meanwhile_and_says_why() -> None:
    engine = PaperMatrix()
    engine.go.clear()
    async with asked(engine) as (rig, attest):
        await engine.began.wait()
        assert reasons(rig) == [Reason.ATTESTING]
        assert rig.node.credit("main") is None
        engine.go.set()
        await rig.until(lambda: attest.found and not reasons(rig))
        assert rig.node.credit("main") is not None


async def test_what_runs_on_the_gpu_ends_first() -> None:
    engine = PaperMatrix()
    async with on_gpu() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        attest = Attest(rig.spine, rig.caller, engine)
        task = asyncio.create_task(attest.run())
        attest.asked(QUESTION)
        await rig.until(lambda: reasons(rig) == [Reason.ATTESTING])
        assert not engine.began.is_set()
        rig.engine.go.set()
        await rig.until(lambda: attest.found)
        assert engine.done[0] == "prepare"
        task.cancel()


async def test_beats_go_on_while_an_engine_hangs() -> None:
    engine = PaperMatrix()
    engine.go.clear()
    async with asked(engine) as (rig, _):
        await engine.began.wait()
        beats = len(rig.coordinator.sent(wire.Beat))
        await rig.pass_time(30)
        assert len(rig.coordinator.sent(wire.Beat)) > beats


async def test_an_owner_who_wants_none_of_it_is_told_to_the_coordinator() -> None:
    async with asked(None) as (rig, _):
        await rig.until(lambda: rig.coordinator.sent(MatrixReady))
        (ready,) = rig.coordinator.sent(MatrixReady)
        assert "gpu.attest" in ready.refusal
        assert reasons(rig) == []


@pytest.mark.parametrize("step", ["prepare", "commit", "reread", "open"])
async def test_an_engine_that_fails_says_why_and_opens_the_gpu_again(step: str) -> None:
    engine = PaperMatrix()
    engine.fails = step
    async with asked(engine) as (rig, _):
        await rig.until(lambda: [it.refusal for it in rig.coordinator.sent(MatrixReady)][-1:] == [f"{step} failed"])
        assert engine.done[-1] == "close"
        assert reasons(rig) == []


async def test_a_challenge_that_is_over_before_it_began_costs_nothing() -> None:
    engine = PaperMatrix()
    async with asked(engine) as (rig, attest):
        rig.coordinator.answers[MatrixReady] = lambda it: MatrixGo()
        await rig.until(lambda: engine.done[-1:] == ["close"])
        assert engine.done == ["prepare", "close"]
        assert attest.found == {}


async def test_a_message_whose_answer_was_lost_is_said_again() -> None:
    engine, failures = PaperMatrix(), [DOWN, DOWN]

    def lossy(message: MatrixCommitted) -> MatrixAgain:
        if failures:
            raise failures.pop()
        return MatrixAgain(seed="22" * 32)

    async with on_gpu() as rig:
        rig.coordinator.answers[MatrixCommitted] = lossy
        attest = Attest(rig.spine, rig.caller, engine)
        task = asyncio.create_task(attest.run())
        attest.asked(QUESTION)
        await rig.until(lambda: attest.found)
        assert len(rig.coordinator.sent(MatrixCommitted)) == 3
        task.cancel()


async def test_a_challenge_that_the_coordinator_forgot_is_dropped_and_the_next_is_taken() -> None:
    def gone(message: MatrixReady) -> MatrixGo:
        raise LinkError(LinkFault.REFUSED, "over", code=wire.RefusalCode.NOT_FOUND)

    engine = PaperMatrix()
    async with asked(engine) as (rig, attest):
        rig.coordinator.answers[MatrixReady] = gone
        await rig.until(lambda: engine.done[-1:] == ["close"])
        assert reasons(rig) == []
        honest(rig)
        rig.clock.advance(APART_S)
        attest.asked(msgspec.structs.replace(QUESTION, challenge_id="m-2"))
        await rig.until(lambda: attest.found)


async def test_the_same_question_with_every_beat_is_answered_once() -> None:
    engine = PaperMatrix()
    async with asked(engine) as (rig, attest):
        attest.asked(QUESTION)
        attest.asked(None)
        await rig.until(lambda: attest.found)
        attest.asked(QUESTION)
        await rig.pass_time(5)
        assert engine.done.count("prepare") == 1


async def test_a_processor_is_asked_without_stopping_its_pools() -> None:
    engine = PaperMatrix()
    engine.go.clear()
    async with asked(engine, msgspec.structs.replace(QUESTION, devices=(CPU,))) as (rig, _):
        await engine.began.wait()
        assert reasons(rig) == []


async def test_it_waits_while_the_owner_keeps_the_gpu_to_himself() -> None:
    engine = PaperMatrix()
    pause, resume = ev.PauseAsked(devices=("GPU-1",)), ev.ResumeAsked(devices=("GPU-1",))
    async with on_gpu() as rig:
        rig.spine.feed(pause)
        attest = Attest(rig.spine, rig.caller, engine)
        task = asyncio.create_task(attest.run())
        attest.asked(QUESTION)
        await rig.pass_time(30)
        assert not engine.began.is_set()
        rig.spine.feed(resume)
        await rig.until(lambda: attest.found)
        task.cancel()


async def test_an_owner_who_comes_while_the_engine_loads_is_not_disturbed() -> None:
    engine = PaperMatrix()
    engine.go.clear()
    async with asked(engine) as (rig, attest):
        await engine.began.wait()
        rig.spine.feed(ev.GateChanged(reason=Reason.OWNER_ACTIVE, shut=True))
        engine.go.set()
        await rig.until(lambda: engine.done == ["prepare", "close"])
        assert rig.coordinator.sent(MatrixReady) == []
        rig.spine.feed(ev.GateChanged(reason=Reason.OWNER_ACTIVE, shut=False))
        await rig.until(lambda: attest.found)
        assert engine.done[:3] == ["prepare", "close", "prepare"]


async def test_an_owner_who_needs_the_machine_for_long_is_the_reason_for_no_answer() -> None:
    engine = PaperMatrix()
    async with on_gpu() as rig:
        rig.spine.feed(ev.PauseAsked())
        attest = Attest(rig.spine, rig.caller, engine)
        task = asyncio.create_task(attest.run())
        attest.asked(QUESTION)
        await rig.pass_time(5)
        rig.clock.advance(QUESTION.answer_s)
        rig.spine.wake()
        await rig.until(lambda: rig.coordinator.sent(MatrixReady))
        assert "owner" in rig.coordinator.sent(MatrixReady)[0].refusal
        task.cancel()


@pytest.mark.parametrize(
    "comes",
    [
        ev.PauseAsked(),
        ev.PauseAsked(devices=("GPU-1",)),
        ev.GateChanged(reason=Reason.OWNER_ACTIVE, shut=True),
        ev.DeviceGateChanged(devices=("GPU-1",), reason=Reason.GPU_IN_USE, shut=True),
    ],
    ids=["pause", "pause of the GPU", "presence", "use of the GPU"],
)
async def test_an_owner_who_comes_while_it_computes_has_the_memory_at_once(comes: ev.NodeEvent) -> None:
    engine = PaperMatrix()
    engine.computes.clear()
    async with asked(engine) as (rig, attest):
        await rig.until(lambda: "commit" in engine.done)
        rig.spine.feed(comes)
        await rig.until(lambda: engine.done == ["prepare", "commit", "close"])
        await rig.until(lambda: len(rig.coordinator.sent(MatrixReady)) == 2)
        assert "owner" in rig.coordinator.sent(MatrixReady)[-1].refusal
        assert (attest.found, Reason.ATTESTING in reasons(rig)) == ({}, False)


async def test_the_heat_of_the_challenge_itself_does_not_break_it_off() -> None:
    engine = PaperMatrix()
    engine.computes.clear()
    async with asked(engine) as (rig, attest):
        await rig.until(lambda: "commit" in engine.done)
        rig.spine.feed(ev.DeviceGateChanged(devices=("GPU-1",), reason=Reason.GPU_HOT, shut=True))
        engine.computes.set()
        await rig.until(lambda: attest.found)


async def test_no_work_comes_before_the_memory_is_let_go() -> None:
    engine, takes_work = PaperMatrix(), list[bool]()
    engine.fails = "commit"
    async with asked(engine) as (rig, _):

        def refused(message: MatrixReady) -> MatrixGo:
            if message.refusal:
                takes_work.append(rig.node.credit("main") is not None and "close" not in engine.done)
            return MatrixGo() if message.refusal else MatrixGo(seed="11" * 32, works=(WORK,))

        rig.coordinator.answers[MatrixReady] = refused
        await rig.until(lambda: takes_work)
        assert takes_work == [False]


async def test_a_challenge_that_a_broken_line_stopped_at_the_start_is_taken_again() -> None:
    engine = PaperMatrix()
    async with asked(engine) as (rig, attest):
        rig.coordinator.down = True
        await rig.until(lambda: engine.done == ["prepare", "close"])
        rig.coordinator.down = False
        attest.asked(QUESTION)
        await rig.until(lambda: attest.found)


async def test_a_gpu_that_no_pool_is_on_is_left_alone() -> None:
    engine = PaperMatrix()
    async with asked(engine, msgspec.structs.replace(QUESTION, devices=("GPU-1", "GPU-2"))) as (rig, _):
        await rig.until(lambda: rig.coordinator.sent(MatrixReady))
        assert rig.coordinator.sent(MatrixReady)[0].refusal == "no pool of this node is on GPU-2"
        assert (engine.done, reasons(rig)) == ([], [])


def refusals(rig: Rig) -> list[str]:
    return [it.refusal for it in rig.coordinator.sent(MatrixReady) if it.refusal]


@pytest.mark.parametrize("devices", [(), ("GPU-1", "GPU-1")])
async def test_a_challenge_of_no_device_or_of_one_twice_is_refused_and_the_next_is_answered(
    devices: tuple[str, ...],
) -> None:
    engine = PaperMatrix()
    async with asked(engine, msgspec.structs.replace(QUESTION, devices=devices)) as (rig, attest):
        await rig.until(lambda: refusals(rig) == ["the challenge names no device, or one of them twice"])
        assert engine.done == []
        attest.asked(msgspec.structs.replace(QUESTION, challenge_id="m-2"))
        await rig.until(lambda: attest.found)


@pytest.mark.parametrize(
    ("message", "reply"), [(MatrixReady, MatrixGo(seed="11" * 32)), (MatrixReread, MatrixDrawn(rows=((3,), (5,))))]
)
async def test_a_coordinator_that_speaks_of_other_devices_than_it_asked_for_ends_the_challenge_and_nothing_else(
    message: type[MatrixReady | MatrixReread], reply: MatrixGo | MatrixDrawn
) -> None:
    engine = PaperMatrix()
    async with asked(engine) as (rig, attest):
        rig.coordinator.answers[message] = lambda it: reply
        await rig.until(lambda: any("and 1 are challenged" in it for it in refusals(rig)))
        assert (engine.done[-1], reasons(rig)) == ("close", [])
        honest(rig)
        attest.asked(msgspec.structs.replace(QUESTION, challenge_id="m-2"))
        await rig.until(lambda: len(refusals(rig)) == 2)  # the first had the GPU a moment ago


async def test_a_gpu_takes_work_while_its_owner_needs_another_one_that_is_asked_with_it() -> None:
    engine = PaperMatrix()
    async with on_gpu() as rig:
        rig.spine.feed(ev.PoolChanged(pool=builders.pool("other", device="GPU-2")))
        rig.spine.feed(ev.PauseAsked(devices=("GPU-2",)))
        attest = Attest(rig.spine, rig.caller, engine)
        task = asyncio.create_task(attest.run())
        attest.asked(msgspec.structs.replace(QUESTION, devices=("GPU-1", "GPU-2")))
        await rig.pass_time(5)
        assert not engine.began.is_set()
        assert rig.node.credit("main") is not None
        rig.spine.feed(ev.ResumeAsked())
        await rig.until(lambda: attest.found)
        task.cancel()


async def test_what_runs_for_long_is_not_waited_for_without_work() -> None:
    engine = PaperMatrix()
    async with on_gpu() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        attest = Attest(rig.spine, rig.caller, engine)
        task = asyncio.create_task(attest.run())
        attest.asked(QUESTION)
        await rig.until(lambda: reasons(rig) == [Reason.ATTESTING])
        rig.clock.advance(CLEAR_S)
        rig.spine.wake()
        await rig.until(lambda: refusals(rig) == [BUSY])
        assert rig.node.credit("main") is not None
        assert not engine.began.is_set()
        task.cancel()


async def test_a_library_that_is_missing_is_noticed_before_anything_makes_room() -> None:
    engine = PaperMatrix()
    engine.missing = "torch"
    async with on_gpu() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        attest = Attest(rig.spine, rig.caller, engine)
        task = asyncio.create_task(attest.run())
        attest.asked(QUESTION)
        await rig.until(lambda: refusals(rig) == ["torch is not installed"])
        assert rig.node.credit("main") is not None
        task.cancel()


async def test_a_coordinator_that_never_stops_asking_has_a_device_once_in_ten_minutes_and_is_told_why() -> None:
    engine = PaperMatrix()
    engine.fails = "commit"
    async with asked(engine) as (rig, attest):
        for number in range(1, 4):
            attest.asked(msgspec.structs.replace(QUESTION, challenge_id=f"m-{number}"))
            await rig.until(lambda: len(refusals(rig)) == number)  # noqa: B023  (awaited at once)
        assert engine.done.count("prepare") == 1
        assert refusals(rig)[1:] == ["not now: GPU-1 was challenged 0 s ago; once in 10 min 0 s is enough"] * 2
        rig.clock.advance(APART_S)
        engine.fails = ""
        attest.asked(msgspec.structs.replace(QUESTION, challenge_id="later"))
        await rig.until(lambda: attest.found)


async def test_a_coordinator_that_draws_a_challenge_out_has_the_gpu_for_ten_minutes_of_an_hour() -> None:
    engine = PaperMatrix()
    engine.computes.clear()
    async with asked(engine) as (rig, attest):
        await rig.until(lambda: "commit" in engine.done)
        rig.clock.advance(MOST_S)
        rig.spine.wake()
        await rig.until(lambda: refusals(rig) == [TOO_LONG])
        assert (engine.done[-1], reasons(rig)) == ("close", [])
        engine.computes.set()
        attest.asked(msgspec.structs.replace(QUESTION, challenge_id="soon"))
        await rig.until(lambda: len(refusals(rig)) == 2)
        assert "challenges had GPU-1 for 10 min 0 s lately" in refusals(rig)[1]
        rig.clock.advance(WINDOW_S)
        attest.asked(msgspec.structs.replace(QUESTION, challenge_id="later"))
        await rig.until(lambda: attest.found)
