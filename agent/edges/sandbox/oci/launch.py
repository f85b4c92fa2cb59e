"""Starts a container, holds its first process until the agent is ready for it, then lets it start the program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.edges.sandbox.fds import Tail
from agent.edges.sandbox.launch import Launched
from agent.edges.sandbox.oci.command import complaint
from agent.edges.sandbox.oci.first import Told, recognise
from agent.edges.sandbox.oci.remedies import remedy_for
from agent.edges.sandbox.places import Places, hold
from agent.edges.sandbox.processes import reap

LAUNCH_LIMIT_S = 60.0
"""An engine takes 0.2 to 0.6 s; the first container after an installation longer."""


class Order(NamedTuple):
    """What to run."""

    words: Sequence[str]
    """The engine's whole command line."""
    environment: Mapping[str, str]
    """Of the engine."""
    mark: str
    """The line that the container's first process begins with."""
    stderr_bytes: int
    stdout: Path | None
    """Named pipe for the program's stdout, where that is wanted; it is made here and removed once it is open."""
    places: tuple[str, ...]
    """Paths inside of the file systems that are to be held open."""
    who: Callable[[], Told]
    """Asks the engine, once the first process is there, which one that is; may block."""
    accounted: bool
    """Whether the engine surely has cgroups to give. Without root it may have none; then all that is its container's
    is the agent's own user's anyway."""


class Announced(Tail):
    """A Tail that begins after a line with `mark`; what comes before that is the engine's own."""

    def __init__(self, limit: int, mark: str) -> None:
        super().__init__(limit)
        self._line = mark.encode() + b"\n"
        self._engine = b""
        self._seen = False
        self._turned = asyncio.Event()

    @property
    def marked(self) -> bool:
        """Whether the mark has come."""
        return self._seen

    async def started(self) -> None:
        """Until the mark has come. Raises SandboxError when it no longer can."""
        await self._turned.wait()
        if not self._seen:
            raise SandboxError("the container did not start")

    @property
    def engine_said(self) -> bytes:
        """What came before the mark."""
        return self._engine

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._seen:
            super().data_received(data)
            return
        self._engine += data
        before, found, after = self._engine.partition(self._line)
        if found:
            self._seen, self._engine = True, before
            self._turned.set()
            super().data_received(after)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        super().connection_lost(exc)
        self._turned.set()


async def launch(order: Order, admit: Callable[[int], None]) -> Launched:
    """`admit` gets the pid of the container's first process, as the host numbers it, before the program is started.

    Raises SandboxError, with the engine's own words, when there is no container. Then, or when cancelled, no process of
    it runs any more; to remove what the engine remembers of it is the caller's part.
    """
    with contextlib.ExitStack() as ends:
        try:
            monitor, gate, stdout, stderr = _spawn(order, ends)
        except OSError as error:
            raise SandboxError(f"{order.words[0]} cannot be started: {error.strerror}") from error
        pidfd, places, tail = -1, Places({}), Announced(order.stderr_bytes, order.mark)
        try:
            await asyncio.get_running_loop().connect_read_pipe(lambda: tail, os.fdopen(stderr, "rb", 0))
            async with asyncio.timeout(LAUNCH_LIMIT_S):
                await tail.started()
                told = await asyncio.to_thread(order.who)
                init_pid, pidfd = told.pid, recognise(told, accounted=order.accounted)
                admit(init_pid)
                places = hold(init_pid, order.places, root="")
                os.write(gate, b"\n")
        except (SandboxError, OSError, TimeoutError) as error:
            await asyncio.shield(_abandon(monitor, pidfd, places, stdout, tail))
            raise _explained(error, tail) from error
        except BaseException:  # cancelled: leave nothing behind
            await asyncio.shield(_abandon(monitor, pidfd, places, stdout, tail))
            raise
    return Launched(monitor, init_pid, pidfd, tail, stdout, places)


def _spawn(order: Order, ends: contextlib.ExitStack) -> tuple[subprocess.Popen[bytes], int, int | None, int]:
    """(engine, writing end of its stdin, its stdout, its stderr). `ends` closes what nobody needs once it runs."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        gate_out, gate = os.pipe()
        theirs.callback(os.close, gate_out)
        ours.callback(os.close, gate)
        stdout = None if order.stdout is None else _named_pipe(order.stdout, ours, ends)
        stderr, stderr_in = os.pipe()
        theirs.callback(os.close, stderr_in)
        ours.callback(os.close, stderr)
        monitor = subprocess.Popen(
            order.words,
            env=order.environment,
            cwd="/",
            stdin=gate_out,
            stdout=subprocess.DEVNULL,
            stderr=stderr_in,
            start_new_session=True,
        )
        ours.pop_all()
        ends.callback(os.close, gate)
        return monitor, gate, stdout, stderr


def _named_pipe(path: Path, ours: contextlib.ExitStack, ends: contextlib.ExitStack) -> int:
    """Its reading end. The container's first process opens the other one before it says that it is there."""
    os.mkfifo(path)
    ends.callback(path.unlink, missing_ok=True)
    path.chmod(0o622)  # whatever our umask is: its user is another
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    ours.callback(os.close, fd)
    return fd


async def _abandon(
    monitor: subprocess.Popen[bytes], pidfd: int, places: Places, stdout: int | None, tail: Announced
) -> None:
    if pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(monitor.pid, signal.SIGKILL)
    dead = await asyncio.to_thread(reap, monitor, pidfd)
    places.close()
    for fd in (pidfd, stdout):
        if fd is not None and fd >= 0:
            os.close(fd)
    if dead:
        await tail.closed.wait()


def _explained(error: Exception, tail: Announced) -> SandboxError:
    said = complaint(tail.engine_said) if tail.engine_said.strip() else ""
    if isinstance(error, TimeoutError):
        return SandboxError(f"the container did not start within {LAUNCH_LIMIT_S:g} s. {said}".strip())
    if tail.marked:
        return error if isinstance(error, SandboxError) else SandboxError(f"the container could not be held: {error}")
    return SandboxError(f"the sandbox could not be built: {said or error}", remedy=remedy_for(said))
