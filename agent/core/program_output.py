"""What a requester is told of a program's run: the output of an `exec` task, as JSON."""

from __future__ import annotations

from agent.core.model import Blob, Value
from agent.core.proof.program import Ended


class Exit(Value):
    """How it ended."""

    kind: Ended
    code: int = 0
    """Exit status, or number of the signal."""
    detail: str = ""
    """In plain words."""

    @property
    def status(self) -> int:
        """As a shell reports it: 128 and the signal for a program that did not end by itself."""
        return self.code if self.kind is Ended.EXITED else min(255, 128 + self.code)


class FileMade(Value):
    """One file of the archive."""

    path: str
    """What is no text in it is escaped; the archive has the bytes themselves."""
    bytes: int
    sha256: str


class Spent(Value):
    """What it used; None where the node cannot tell."""

    wall_s: float = 0.0
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None


class ProgramOutput(Value, omit_defaults=True):
    """All of it. `archive` holds `out/…`, `stdout` and `stderr`."""

    exit: Exit
    archive: Blob
    stdout: str = ""
    """Its end, control characters removed."""
    stderr: str = ""
    files: tuple[FileMade, ...] = ()
    left_out: tuple[str, ...] = ()
    """What lay in /out and is no plain file, in words; the first of it."""
    overfull: str = ""
    """Why nothing of /out was collected, when it held more than allowed."""
    spent: Spent = Spent()
