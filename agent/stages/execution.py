"""One program: from what it prints to streamed chunks, and from what it left to the product."""

from __future__ import annotations

import codecs

import msgspec

from agent.core import wire
from agent.core.archive import shown
from agent.core.errors import EngineError
from agent.core.model import Reason, Timings
from agent.core.program_output import Exit, FileMade, ProgramOutput, Spent
from agent.core.proof.program import Ended
from agent.core.proof.transcript import TranscriptBuilder
from agent.core.text import plain
from agent.ports import Clock, EngineOutput, ExitKind, Printed, Ran
from agent.stages.product import ProgramProduct

_ENDS: dict[ExitKind, tuple[Ended, Reason]] = {
    ExitKind.EXITED: (Ended.EXITED, Reason.PROGRAM_FAILED),
    ExitKind.SIGNALLED: (Ended.SIGNALLED, Reason.PROGRAM_FAILED),
    ExitKind.OUT_OF_MEMORY: (Ended.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    ExitKind.OUT_OF_GPU_MEMORY: (Ended.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
    ExitKind.WALL_TIME: (Ended.WALL_TIME, Reason.WALL_TIME),
    ExitKind.DISK_FULL: (Ended.DISK_FULL, Reason.DISK_FULL),
    ExitKind.OUTPUT: (Ended.OUTPUT_TOO_LARGE, Reason.OUTPUT_TOO_LARGE),
}
"""Whatever its end, the program was run as asked: that is a success of the node's, and the requester is told how it
ended. Nothing of it trips a breaker. A sandbox that we stopped ourselves is not here: nobody waits for its result."""


class Execution:
    """Accumulates one program's run. Not reusable; the counterpart of Generation."""

    tokens = 0

    def __init__(self, offer: wire.OfferBody, clock: Clock) -> None:
        self._offer = offer
        self._clock = clock
        self._began = clock.monotonic()
        self._first: float | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._chunk_index = 0
        self._ran: Ran | None = None

    def take(self, output: EngineOutput) -> wire.Chunk | None:
        """Add what the pool yielded; returns a chunk when there is text to show. Raises EngineError."""
        match output:
            case Printed(data=data) if self._ran is None:
                self._first = self._first or self._clock.monotonic()
                return self._chunk(self._decoder.decode(data))
            case Ran() if self._ran is None:
                self._ran = output
                return None
            case _:
                raise EngineError(Reason.ENGINE_GARBAGE, "a program's pool yields what it prints, then its end")

    def flush(self) -> wire.Chunk | None:
        """What was not shown yet: half a character."""
        return self._chunk(self._decoder.decode(b"", final=True))

    def product(self) -> ProgramProduct:
        """Everything, once the program has ended. Raises EngineError."""
        ran = self._ran
        if ran is None or ran.end.kind not in _ENDS:
            raise EngineError(Reason.ENGINE_CRASHED, "the program's sandbox ended without the program")
        ended, reason = _ENDS[ran.end.kind]
        if (ended, ran.end.code) == (Ended.EXITED, 0):
            reason = Reason.OUTPUT_TOO_LARGE if ran.overfull else Reason.COMPLETED
        builder = TranscriptBuilder(0)
        builder.add_files(ran.members)
        return ProgramProduct(
            output=msgspec.json.encode(_told(ran, ended)).decode(),
            builder=builder,
            timings=self._timings(),
            reason=reason,
            ended=ended,
            code=ran.end.code,
            artifact=ran.artifact,
        )

    def _timings(self) -> Timings:
        first_s = (self._first - self._began) if self._first is not None else 0.0
        running_s = self._clock.monotonic() - self._began
        return Timings(first_token_ms=round(first_s * 1000), running_ms=round(running_s * 1000))

    def _chunk(self, text: str) -> wire.Chunk | None:
        text = plain(text, len(text))
        if not text:
            return None
        self._chunk_index += 1
        return wire.Chunk(key=self._offer.key, index=self._chunk_index - 1, text=text, tokens=0)


def _told(ran: Ran, ended: Ended) -> ProgramOutput:
    used = ran.end.used
    return ProgramOutput(
        exit=Exit(kind=ended, code=ran.end.code, detail=ran.end.detail),
        archive=ran.artifact.blob,
        stdout=ran.stdout_tail,
        stderr=ran.stderr_tail,
        files=tuple(
            FileMade(path=shown(it.path), bytes=it.size, sha256=it.sha256) for it in ran.members if not it.directory
        ),
        left_out=ran.left_out,
        overfull=ran.overfull,
        spent=Spent(wall_s=used.wall_s, cpu_s=used.cpu_s, memory_peak_bytes=used.memory_peak_bytes),
    )
