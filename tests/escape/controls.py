"""Sandboxes that are none, to prove that the attempts can get through: the same port, on purpose badly done."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from typing import BinaryIO

from agent.core.fingerprint import SandboxFacts
from agent.core.text import plain
from agent.ports import ExitKind, SandboxExit, SandboxSpec

CARELESS = (
    "/usr/bin/bwrap",
    "--unshare-pid",
    "--bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--dev-bind",
    "/dev",
    "/dev",
    "--",
)
"""A program starts as others start it: environment, descriptors, groups and core dumps are handed down."""
NAIVE = ("/usr/bin/bwrap", "--unshare-all", "--ro-bind", "/", "/", "--")
"""What one would type first."""
_BURDEN = 'echo 500 >/proc/self/oom_score_adj; ulimit -c "$(ulimit -H -c)"; exec "$@"'
"""What a program starts with in a sandbox of ours, or what a shell may have set."""


class BareHandle:
    """A process, and a file with what it says on stderr: a daemon that stays would hold a pipe open."""

    def __init__(self, process: asyncio.subprocess.Process, said: BinaryIO, terminal: int) -> None:
        self._process = process
        self._said = said
        self._terminal = terminal

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def out_fd(self) -> int | None:
        return None

    def stderr_tail(self) -> str:
        return plain(os.pread(self._said.fileno(), 1 << 20, 0), 1 << 20)

    async def stdout(self) -> AsyncIterator[bytes]:
        for piece in ():
            yield piece

    def close(self) -> None:
        self.kill()
        if not self._said.closed:
            self._said.close()
            os.close(self._terminal)

    async def wait(self) -> SandboxExit:
        code = await self._process.wait()
        return SandboxExit(kind=ExitKind.SIGNALLED if code < 0 else ExitKind.EXITED, code=abs(code))

    async def stop(self, _grace_s: float) -> SandboxExit:
        self.kill()
        return await self.wait()

    def kill(self) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)


class Bare:
    """Runs a program behind `prefix`, or behind nothing at all; its mounts are where they lie on the host."""

    def __init__(self, *prefix: str) -> None:
        self._prefix = prefix

    async def probe(self) -> SandboxFacts:
        return SandboxFacts(backend="none", usable=False)

    async def start(self, spec: SandboxSpec) -> BareHandle:
        places = {inside: str(source) for source, inside in spec.ro_mounts}
        places |= dict.fromkeys(("/sock", "/out"), str(spec.socket_dir))
        argv = [places.get(word, word) for word in spec.argv]
        for inside, source in places.items():
            argv = [word.replace(f'"{inside}"', f'"{source}"') for word in argv]
        said = tempfile.TemporaryFile()  # noqa: SIM115 (the handle closes it)
        terminal, line = os.openpty()
        leak = os.open(spec.ro_mounts[0][0], os.O_RDONLY)
        try:
            process = await asyncio.create_subprocess_exec(
                *("/usr/bin/setsid", "--ctty", "--", "/bin/sh", "-c", _BURDEN, "sh"),
                *self._prefix,
                *argv,
                stdin=line,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=said,
                cwd=tempfile.gettempdir(),
                pass_fds=(leak,),
            )
        finally:
            os.close(line)
            os.close(leak)
        return BareHandle(process, said, terminal)
