"""One running sandbox: waiting for its end, stopping it, and saying how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from agent.core.text import plain
from agent.edges.sandbox.exits import classify
from agent.edges.sandbox.fds import readable
from agent.edges.sandbox.launch import Launched
from agent.edges.sandbox.output import Output
from agent.edges.sandbox.places import Places
from agent.edges.sandbox.processes import bury
from agent.ports import ExitKind, SandboxExit, SandboxSpec, Used


class Confining(Protocol):
    """What holds a sandbox to its limits."""

    async def watch(self, places: Places, exceeded: Callable[[], None]) -> None:
        """Runs beside the sandbox until its end; calls `exceeded` when it is to be ended for its memory."""
        ...

    def last_look(self) -> None:
        """The sandbox is about to be killed."""
        ...

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something inside for its memory limit. May block."""
        ...

    def used(self, wall_s: float) -> Used:
        """What it used, asked once it is dead and before `release`."""
        ...

    def release(self) -> None:
        """Take away what is left once the sandbox is dead. May block."""
        ...


class RunningSandbox:
    """A SandboxHandle. Made by the `start` of a backend."""

    def __init__(self, launched: Launched, spec: SandboxSpec, confinement: Confining) -> None:
        self._launched = launched
        self._limits = spec.limits
        self._confinement = confinement
        self._cause: ExitKind | None = None
        self._closed = False
        self._output = None
        if launched.stdout is not None:
            self._output = Output(launched.stdout, spec.limits.stdout_bytes, self._too_much_output)
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._wall = None if spec.limits.wall_s is None else loop.call_later(spec.limits.wall_s, self._out_of_time)
        watching = confinement.watch(launched.places, self._out_of_memory)
        self._watch = loop.create_task(watching, name=f"sandbox-watch-{spec.name}")
        self._end = loop.create_task(self._follow(), name=f"sandbox-{spec.name}")

    @property
    def pid(self) -> int:
        """The sandbox's pid 1, as the host numbers it."""
        return self._launched.init_pid

    def stderr_tail(self) -> str:
        """Last lines of stderr, control characters removed."""
        return plain(self._launched.stderr.read(), self._limits.stderr_bytes)

    def stdout(self) -> AsyncIterator[bytes]:
        """What the program writes, as it comes; ends with the program, or with what is allowed. One reader: without
        one the program waits once a pipe is full. Nothing without `stdout_bytes`."""
        return self._output.pieces() if self._output is not None else _nothing()

    @property
    def out_fd(self) -> int | None:
        """Descriptor of /out, open for reading until `close`, also after the program's end; None without `out_bytes`.

        What lies there was made by the program: follow nothing in it.
        """
        return None if self._closed else self._launched.places.out

    def close(self) -> None:
        """Kill what still runs, give up /out and what is left unread. Idempotent."""
        self.kill()
        if self._output is not None:
            self._output.close()
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().run_in_executor(None, self._launched.places.close)

    async def wait(self) -> SandboxExit:
        """The end; any number of callers may wait, and cancelling one leaves the sandbox alone."""
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> SandboxExit:
        """SIGTERM to the program inside, SIGKILL to the sandbox after `grace_s`."""
        self._ended_by(ExitKind.STOPPED)
        asked = [self._signal(pid, signal.SIGTERM) for pid in self._programs()]
        if any(asked):
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self.wait(), grace_s)
        self._destroy()
        return await self.wait()

    def kill(self) -> None:
        """SIGKILL to everything inside, at once."""
        self._ended_by(ExitKind.STOPPED)
        self._destroy()

    def _ended_by(self, cause: ExitKind) -> None:
        if self._cause is None and not self._end.done():
            self._cause = cause

    def _out_of_time(self) -> None:
        self._ended_by(ExitKind.WALL_TIME)
        self._destroy()

    def _out_of_memory(self) -> None:
        self._ended_by(ExitKind.OUT_OF_MEMORY)
        self._destroy()

    def _too_much_output(self) -> None:
        self._ended_by(ExitKind.OUTPUT)
        self._destroy()

    def _destroy(self) -> None:
        if self._end.done():
            return
        self._confinement.last_look()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._launched.init_pidfd, signal.SIGKILL)

    def _programs(self) -> Iterator[int]:
        """The children of the sandbox's pid 1. A signal to pid 1 itself, or to the monitor, would not be graceful."""
        with contextlib.suppress(OSError):
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            yield from map(int, listed.split())

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # Its number may have been taken over since it was read.
            if pid not in self._programs():
                return False
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    async def _follow(self) -> SandboxExit:
        try:
            code = await self._ended()
        except asyncio.CancelledError:  # the loop is shutting down: the sandbox goes with it
            self.close()
            self._confinement.release()
            raise
        if self._wall is not None:
            self._wall.cancel()
        self._watch.cancel()
        cause = self._cause or await self._found(code)
        used = self._confinement.used(asyncio.get_running_loop().time() - self._began)
        await asyncio.to_thread(self._tidy)
        os.close(self._launched.init_pidfd)
        end = classify(code, cause, self._limits, self.stderr_tail())
        return msgspec.structs.replace(end, used=used)

    def _tidy(self) -> None:
        """Blocks: a group counts as full until the kernel has quite forgotten its dead, a place until its files."""
        self._launched.places.close(keep_out=True)
        self._confinement.release()

    async def _found(self, code: int) -> ExitKind | None:
        """Why it ended, where we did not end it."""
        if self._output is not None and self._output.overrun():
            return ExitKind.OUTPUT
        if code == 0:
            return None
        # In version 1 the kernel may have killed a child only, which the program outlived.
        if await asyncio.to_thread(self._confinement.out_of_memory):
            return ExitKind.OUT_OF_MEMORY
        return ExitKind.DISK_FULL if self._launched.places.full() else None

    async def _ended(self) -> int:
        """The monitor's exit status, once everything inside is dead and all it wrote has been read."""
        launched = self._launched
        monitor_pidfd = os.pidfd_open(launched.monitor.pid)
        try:
            await readable(monitor_pidfd)
            # The monitor may end, or be killed, before the sandbox is quite dead; a container outlives it altogether.
            self._destroy()
            await readable(launched.init_pidfd)
        finally:
            os.close(monitor_pidfd)
        await launched.stderr.closed.wait()
        code = launched.monitor.wait()
        bury(launched.monitor.pid, launched.init_pidfd)
        return code


async def _nothing() -> AsyncIterator[bytes]:
    for piece in tuple[bytes, ...]():
        yield piece
