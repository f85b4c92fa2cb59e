"""Isolation of a program."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from agent.core.fingerprint import SandboxFacts
from agent.core.model import Value


class Limits(Value):
    """What a sandbox may use. None means unlimited; a limit that cannot be enforced makes `start` refuse."""

    memory_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None
    tmp_bytes: int = 256 << 20
    open_files: int = 4096
    file_bytes: int = 256 << 20
    wall_s: float | None = None
    stderr_bytes: int = 64 << 10
    """Tail of stderr that is kept; the rest is drained and dropped."""
    stdout_bytes: int = 0
    """Most that `SandboxHandle.stdout` yields; one that writes more is ended with ExitKind.OUTPUT. 0: /dev/null."""
    out_bytes: int = 0
    """Size of the file system at /out, which outlives the program until the handle is closed. 0: there is none."""
    gpu_memory_bytes: int | None = None
    """Memory on all its GPUs together. Watched, since no kernel limits it: who is over is ended a second later."""


class SandboxSpec(Value):
    """One sandboxed program. Paths on the left are the host's."""

    name: str
    """Short label for logs, cgroups and temporary directories."""
    argv: tuple[str, ...]
    """Paths as seen inside."""
    ro_mounts: tuple[tuple[Path, str], ...] = ()
    socket_dir: Path | None = None
    """Host directory, bound read-write at /sock."""
    cwd: str = "/"
    gpus: tuple[str, ...] = ()
    """GPU UUIDs whose device nodes are bound."""
    limits: Limits = Limits()
    env: dict[str, str] = msgspec.field(default_factory=dict)


class ExitKind(StrEnum):
    """How a sandbox ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_GPU_MEMORY = "out_of_gpu_memory"
    WALL_TIME = "wall_time"
    DISK_FULL = "disk_full"
    """It failed with no room left on one of its file systems."""
    OUTPUT = "output"
    """It wrote more to stdout than allowed."""
    STOPPED = "stopped"
    """We stopped it."""


class Used(Value):
    """What a sandbox used over its life; None where this machine cannot tell."""

    wall_s: float = 0.0
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None


class SandboxExit(Value):
    kind: ExitKind
    code: int = 0
    """Exit status, or signal number for SIGNALLED."""
    detail: str = ""
    """Plain words, control characters removed."""
    used: Used = Used()


class SandboxHandle(Protocol):
    """One running sandbox."""

    @property
    def pid(self) -> int: ...
    def stderr_tail(self) -> str:
        """Last lines of stderr, control characters removed."""
        ...

    def stdout(self) -> AsyncIterator[bytes]:
        """What the program writes, as it comes; ends with the program. One reader; nothing without `stdout_bytes`."""
        ...

    @property
    def out_fd(self) -> int | None:
        """Descriptor of /out, open for reading also after the program's end; None without `out_bytes`."""
        ...

    def close(self) -> None:
        """Give up /out and what is left unread. Idempotent; kills what still runs."""
        ...

    async def wait(self) -> SandboxExit: ...
    async def stop(self, grace_s: float) -> SandboxExit:
        """SIGTERM to the program inside, SIGKILL to the sandbox after `grace_s`."""
        ...

    def kill(self) -> None: ...


class Sandbox(Protocol):
    """Isolates a program."""

    async def probe(self) -> SandboxFacts:
        """Really runs a program and a few escapes; says what is enforced here and what is not."""
        ...

    async def start(self, spec: SandboxSpec) -> SandboxHandle:
        """Raises SandboxError when it cannot be built or a limit of `spec` cannot be enforced."""
        ...
