"""Programs in the stages: what is brought before they run, and what is made of how they end."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.errors import EngineError, LinkError, LinkFault
from agent.core.model import Blob, LeaseKey, Reason
from agent.core.program_output import Exit, ProgramOutput
from agent.core.proof.files import FileLeaf
from agent.core.proof.program import Ended
from agent.core.watchdog import Pulse
from agent.edges.programs.stock import Stock
from agent.ports import ExitKind, Piece, Printed, Ran, SandboxExit, Used
from agent.stages.calls import Caller
from agent.stages.execution import Execution
from agent.stages.supply import Supply
from tests import builders
from tests.edges.programs.making import archive, program, sha256
from tests.fakes.clock import ManualClock
from tests.patience import within

KEY = LeaseKey(task_id="task-1", attempt=1, fence=1)
BUNDLE = archive({"run": b"#!/bin/sh\n"})
CUT = LinkError(LinkFault.UNREACHABLE, "the line is cut")
GONE = LinkError(LinkFault.REFUSED, "no such blob", code=wire.RefusalCode.NOT_FOUND)


class BlobLine:
    """The part of a link that brings blobs: what happens next is in `fates`, else the blob comes whole."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {sha256(blob): blob for blob in blobs}
        self.asked: list[str] = []
        self.calls = asyncio.Semaphore(0)
        self.fates: list[tuple[bytes, LinkError]] = []

    async def get_blob(self, digest: str, size: int, write: Any) -> None:
        self.asked.append(digest)
        self.calls.release()
        await asyncio.sleep(0)
        if self.fates:
            some, fault = self.fates.pop(0)
            write(some)
            raise fault
        for at in range(0, size, 1000):
            write(self.blobs[digest][at : at + 1000])


class Rig:
    def __init__(self, directory: Path, *blobs: bytes) -> None:
        self.clock = ManualClock()
        self.line = BlobLine(*blobs)
        self.stock = Stock(directory, 1 << 20)
        caller = Caller(self.line, self.clock, Pulse({}, started=0.0), random.Random(1))  # type: ignore[arg-type]
        self.supply = Supply(caller, self.stock)


async def test_what_a_task_lacks_is_brought_once_for_all_tasks_that_need_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, BUNDLE, b"input")
    asked = program(BUNDLE, inputs={"a": b"input"})
    await asyncio.gather(*(rig.supply.bring(KEY, asked) for _ in range(3)))
    assert sorted(rig.line.asked) == sorted([sha256(BUNDLE), sha256(b"input")])
    assert rig.stock.lacking(asked) == {}


async def test_a_broken_download_begins_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, BUNDLE)
    rig.line.fates = [(b"half of it", CUT), (b"", CUT)]
    bringing = asyncio.create_task(rig.supply.bring(KEY, program(BUNDLE)))
    for _ in range(2):
        await rig.line.calls.acquire()
        await rig.clock.somebody_sleeps()
        rig.clock.advance(60)
    await within(bringing)
    assert rig.stock.lacking(program(BUNDLE)) == {}


@pytest.mark.parametrize("fate", ["gone", "other bytes", "too many"])
async def test_what_cannot_be_had_ends_the_attempt_and_leaves_nothing(tmp_path: Path, fate: str) -> None:
    rig = Rig(tmp_path, BUNDLE)
    match fate:
        case "gone":
            rig.line.fates = [(b"", GONE)]
        case "other bytes":
            rig.line.blobs[sha256(BUNDLE)] = bytes(len(BUNDLE))
        case "too many":
            rig.line.fates = [(BUNDLE + b"x", CUT)]
    with pytest.raises(EngineError) as refused:
        await rig.supply.bring(KEY, program(BUNDLE))
    assert refused.value.reason is Reason.BLOB_UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_download_leaves_nothing_and_the_line_free(tmp_path: Path) -> None:
    rig = Rig(tmp_path, BUNDLE)
    rig.line.fates = [(b"half of it", CUT)]
    bringing = asyncio.create_task(rig.supply.bring(KEY, program(BUNDLE)))
    await rig.clock.somebody_sleeps()
    bringing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bringing
    assert list(tmp_path.iterdir()) == []
    await within(rig.supply.bring(KEY, program(BUNDLE)))


async def test_a_full_cache_fails_the_attempt_as_a_full_disk_does(tmp_path: Path) -> None:
    rig = Rig(tmp_path, BUNDLE)
    rig.stock = Stock(tmp_path, 10)
    rig.supply = Supply(rig.supply._caller, rig.stock)
    with pytest.raises(EngineError) as refused:
        await rig.supply.bring(KEY, program(BUNDLE))
    assert refused.value.reason is Reason.STORAGE_FULL


# ---------------------------------------------------------------- what is made of an end


class Left:
    """An artifact in hand."""

    blob = Blob(sha256="99" * 32, bytes=4096)
    path = Path("/nowhere")


def ran(kind: ExitKind = ExitKind.EXITED, code: int = 0, **changes: Any) -> Ran:
    end = SandboxExit(kind=kind, code=code, detail="it ended", used=Used(wall_s=1.5))
    members = (FileLeaf(b"out/\xff", 3, "11" * 32), FileLeaf(b"out/void", 0, "22" * 32, directory=True))
    fields = {"end": end, "members": members, "artifact": Left(), "stdout_tail": "said", "stderr_tail": ""}
    return Ran(**{**fields, **changes})


def executed(*outputs: Any):
    execution = Execution(builders.offer(), ManualClock())
    chunks = [execution.take(output) for output in outputs]
    return execution, [chunk.text for chunk in (*chunks, execution.flush()) if chunk]


@pytest.mark.parametrize(
    ("end", "ended", "reason"),
    [
        (ran(), Ended.EXITED, Reason.COMPLETED),
        (ran(code=1), Ended.EXITED, Reason.PROGRAM_FAILED),
        (ran(ExitKind.SIGNALLED, 11), Ended.SIGNALLED, Reason.PROGRAM_FAILED),
        (ran(ExitKind.OUT_OF_MEMORY, 9), Ended.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
        (ran(ExitKind.WALL_TIME, 9), Ended.WALL_TIME, Reason.WALL_TIME),
        (ran(ExitKind.DISK_FULL, 1), Ended.DISK_FULL, Reason.DISK_FULL),
        (ran(ExitKind.OUTPUT, 9), Ended.OUTPUT_TOO_LARGE, Reason.OUTPUT_TOO_LARGE),
        (ran(overfull="more than 10 files"), Ended.EXITED, Reason.OUTPUT_TOO_LARGE),
        (ran(code=2, overfull="more than 10 files"), Ended.EXITED, Reason.PROGRAM_FAILED),
    ],
)
def test_every_end_of_a_program_is_a_result_that_tells_it(end: Ran, ended: Ended, reason: Reason) -> None:
    execution, _ = executed(end)
    product = execution.product()
    assert (product.reason, product.ended, product.code) == (reason, ended, end.end.code)
    told = msgspec.json.decode(product.output, type=ProgramOutput)
    assert (told.exit.kind, told.exit.code, told.archive) == (ended, end.end.code, Left.blob)
    assert [(file.path, file.bytes) for file in told.files] == [("out/\\xff", 3)]
    assert len(product.builder.finish().leaves) == 3


def test_a_sandbox_that_we_stopped_is_no_result() -> None:
    execution, _ = executed(ran(ExitKind.STOPPED, 9))
    with pytest.raises(EngineError):
        execution.product()


def test_a_run_without_an_end_is_no_result() -> None:
    execution, _ = executed(Printed(data=b"and then nothing"))
    with pytest.raises(EngineError):
        execution.product()


@pytest.mark.parametrize("outputs", [(ran(), ran()), (ran(), Printed(data=b"x")), (Piece(text="x"),)])
def test_nothing_follows_the_end_and_no_engine_speaks_here(outputs: tuple[Any, ...]) -> None:
    with pytest.raises(EngineError):
        executed(*outputs)


def test_text_is_shown_whole_across_pieces_and_without_what_moves_a_terminal() -> None:
    _, texts = executed(
        Printed(data="grü".encode()[:3]), Printed(data=b"\xbcn\x1b[2J\x07\r\n"), Printed(data=b"\xc3"), ran()
    )
    assert "".join(texts) == "grün\n\ufffd"


@pytest.mark.parametrize(("kind", "code", "status"), [("exited", 3, 3), ("signalled", 9, 137), ("wall_time", 9, 137)])
def test_a_shell_sees_the_status_that_it_knows(kind: str, code: int, status: int) -> None:
    assert Exit(kind=Ended(kind), code=code).status == status
