"""One running child process of the probe: ask it, kill it, and say how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

import agent
from agent.core.gpu import GpuReport
from agent.core.surroundings import Surroundings
from agent.edges.gpu.text import one_line

LINE_BYTES = 1 << 20
"""Longest line taken from a child. 16 GPUs with 7 MIG slices each make about 40 KiB."""
STDERR_BYTES = 4096
_OPENED = b"opened"
_AROUND = b"around "
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH")


class ChildEnded(Exception):
    """The child will never answer; the message says why, in plain words."""


def worker_command(library: Path | None = None, bus: Path | None = None, proc: Path | None = None) -> tuple[str, ...]:
    """The command of a child of this process. A `library` without a folder is left to the loader to find.

    `bus`, `proc`: folders of the PCI devices and of /proc, None for the kernel's; `proc` comes with a `bus`.
    `-P` and `-s`: neither the working directory nor the user's site-packages decide what code reads the driver.
    """
    command = [sys.executable, "-P", "-s", "-m", "agent.edges.gpu", str(os.getpid())]
    if library is not None:
        command.append(str(library.absolute() if len(library.parts) > 1 else library))
    if bus is not None:
        command += [str(bus.absolute())] if library is not None else ["", str(bus.absolute())]
        command += [str(proc.absolute())] if proc is not None else []
    return tuple(command)


def worker_environment() -> dict[str, str]:
    """Nothing of ours but where our code and the driver library are; no secret of the agent's environment."""
    ours = [str(Path(agent.__file__).parent.parent), *filter(None, sys.path)]
    code = os.pathsep.join(map(os.path.abspath, ours))
    return {"PYTHONPATH": code, "LANG": "C.UTF-8"} | {k: os.environ[k] for k in _PASSED_ON if k in os.environ}


class Child:
    """Speaks the lines of `worker`. Belongs to the event loop's thread, whose end the child does not outlive."""

    def __init__(self, process: Process) -> None:
        self.opened = False
        """Whether the driver answered once."""
        self.around: Surroundings | None = None
        """What it last told of them; None before the first time."""
        self._process = process
        self._stderr = b""
        self._answer: asyncio.Future[GpuReport] | None = None
        self._ended: str | None = None
        self._reading = asyncio.gather(self._read_lines(), self._read_stderr())
        self._exit = asyncio.create_task(process.wait())

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str]) -> Child:
        """Raises OSError when no process can be started."""
        return cls(
            await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=env,
                cwd="/",
                limit=LINE_BYTES,
                start_new_session=True,
            )
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether the kernel gave the process up and it was reaped."""
        return self._process.returncode is not None

    async def report(self) -> GpuReport:
        """The answer to the open question, or to a new one. Raises ChildEnded. Cancelling leaves the question open."""
        if self._ended is not None:
            raise ChildEnded(self._ended)
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            if self._process.stdin and not self._process.stdin.is_closing():
                self._process.stdin.write(b"\n")
        answer = await asyncio.shield(self._answer)
        self._answer = None
        return answer

    def kill(self) -> None:
        """SIGKILL, without waiting: a process in uninterruptible sleep would not die of it.

        Not by `Process.kill`, which polls first and so may reap behind the back of asyncio's own watcher.
        """
        if not self.gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def wait_gone(self, timeout_s: float) -> bool:
        """Whether it was reaped within `timeout_s`."""
        await asyncio.wait({self._exit}, timeout=timeout_s)
        return self.gone

    async def _read_lines(self) -> None:
        assert self._process.stdout
        try:
            while line := await self._process.stdout.readline():
                self._take(line.rstrip(b"\n"))
        except (ValueError, msgspec.MsgspecError) as error:  # a line over the limit, or one that is no report
            self._end(f"the probe process wrote what is no report ({one_line(str(error))})")
            self.kill()
            return
        self.kill()  # closed its end: either dead already, which this does not change, or useless
        await asyncio.wait({self._exit})
        self._end(self._how_it_ended())

    def _take(self, line: bytes) -> None:
        if line == _OPENED:
            self.opened = True
            return
        if line.startswith(_AROUND):
            self.around = msgspec.json.decode(line.removeprefix(_AROUND), type=Surroundings)
            return
        report = msgspec.json.decode(line, type=GpuReport)
        if self._answer is None or self._answer.done():
            raise ValueError("an answer that nobody asked for")
        self._answer.set_result(report)

    def _end(self, why: str) -> None:
        self._ended = why
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ChildEnded(why))
            self._answer.exception()  # taken note of: perhaps nobody is waiting any more

    async def _read_stderr(self) -> None:
        assert self._process.stderr
        while chunk := await self._process.stderr.read(STDERR_BYTES):
            self._stderr = (self._stderr + chunk)[-STDERR_BYTES:]

    def _how_it_ended(self) -> str:
        code = self._process.returncode or 0
        lines = self._stderr.strip().splitlines()
        said = f": {one_line(lines[-1])}" if lines else ""
        if code == -signal.SIGKILL:
            return f"the probe process was killed, perhaps for want of memory{said}"
        if code < 0:
            return f"the driver library crashed the probe process ({signal.Signals(-code).name}){said}"
        return f"the probe process ended by itself (status {code}){said}"
