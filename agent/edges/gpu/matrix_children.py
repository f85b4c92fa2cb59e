"""The matrix challenge on all asked devices at once: one child process each, with a deadline for every answer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from agent.core.attest.messages import CPU, OpenedRow, Work
from agent.core.attest.sizing import CONTEXT_BYTES, SPARE_BYTES, shortage
from agent.core.errors import AttestError
from agent.core.placement import Room
from agent.edges.gpu.child import worker_environment
from agent.edges.gpu.matrix_lines import Commit, Open, Reply, Reread
from agent.edges.gpu.text import one_line

LOAD_S = 180.0
"""To load torch and CUDA, and fill the memory: a large card on a cold disk takes the best part of a minute."""
NEEDED_BYTES = CONTEXT_BYTES + SPARE_BYTES
REAP_S = 0.2
LINE_BYTES = 4 << 20
STDERR_BYTES = 4096

Engine = Callable[[str], str]
"""Which library computes for a device. Raises AttestError."""


def engine_for(device: str) -> str:
    """numpy for the processor, torch for a GPU. Raises AttestError where it is not installed."""
    name = "numpy" if device == CPU else "torch"
    if importlib.util.find_spec(name) is None:
        raise AttestError(f"{name} is not installed", remedy="pip install 'gpu-agent[attest]'")
    return name


class MatrixChildren:
    """Implements ports.MatrixEngine."""

    def __init__(
        self,
        engine: Engine = engine_for,
        load_s: float = LOAD_S,
        reserve_bytes: int = 0,
        rooms: Callable[[], Mapping[str, Room]] = dict,
    ) -> None:
        """`engine` chooses the library of each device; `reserve_bytes` stay free on each GPU; `rooms` by the latest
        reading."""
        self._reserve_bytes = reserve_bytes
        self._rooms = rooms
        self._engine = engine
        self._load_s = load_s
        self._children: list[_Child] = []

    def check(self, devices: Sequence[str]) -> None:
        """Raises AttestError for a library that is not installed, and a GPU that is too full: told before anything is
        stopped for it, and in figures instead of in CUDA's words."""
        rooms = self._rooms()
        for device in devices:
            self._engine(device)
            free_bytes = rooms[device].free_bytes if device in rooms else None
            if free_bytes is not None and (why := shortage(free_bytes, NEEDED_BYTES, self._reserve_bytes)):
                raise AttestError(f"{device}: {why}")

    async def prepare(self, devices: Sequence[str], columns: int) -> tuple[int, ...]:
        """Start a child for each; what may be filled of each, in bytes. Raises AttestError."""
        for device in devices:
            reserve_bytes = 0 if device == CPU else self._reserve_bytes
            self._children.append(await _Child.start(device, self._engine(device), columns, reserve_bytes))
        replies = await self._each(lambda child: child.reply(self._load_s))
        return tuple(reply.free_bytes for reply in replies)

    async def commit(self, seed: str, works: Sequence[Work], timeout_s: float) -> tuple[str, ...]:
        """Roots of all devices, which start together. Raises AttestError."""
        parts = dict(zip(self._children, works, strict=True))
        replies = await self._each(lambda child: child.ask(Commit(seed=seed, work=parts[child]), timeout_s))
        return tuple(root for reply in replies for root in reply.roots)

    async def reread(self, seed: str, timeout_s: float) -> tuple[tuple[str, ...], ...]:
        """Roots over what was kept. Raises AttestError."""
        replies = await self._each(lambda child: child.ask(Reread(seed=seed), timeout_s))
        return tuple(reply.roots for reply in replies)

    async def open(self, rows: Sequence[Sequence[int]], timeout_s: float) -> tuple[tuple[OpenedRow, ...], ...]:
        """The rows that were drawn, of each device. Raises AttestError."""
        wanted = dict(zip(self._children, rows, strict=True))
        replies = await self._each(lambda child: child.ask(Open(rows=tuple(wanted[child])), timeout_s))
        return tuple(reply.rows for reply in replies)

    async def close(self) -> None:
        """Kill all children, and wait as long as a healthy one takes to die: one that is stuck in a driver does not."""
        children, self._children = self._children, []
        for child in children:
            child.kill()
        if children:
            await asyncio.wait({asyncio.create_task(child.gone()) for child in children}, timeout=REAP_S)

    async def _each(self, ask: Callable[[_Child], Awaitable[Reply]]) -> list[Reply]:
        return list(await asyncio.gather(*map(ask, self._children)))


class _Child:
    """One child process. Belongs to the event loop's thread, whose end it does not outlive."""

    def __init__(self, device: str, process: Process) -> None:
        self._device = device
        self._process = process
        self._stderr = asyncio.create_task(self._read_stderr())

    @classmethod
    async def start(cls, device: str, engine: str, columns: int, reserve_bytes: int) -> _Child:
        """Raises AttestError when no process can be started."""
        command = (sys.executable, "-P", "-s", "-m", "agent.edges.gpu.matrix_worker")
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                *(str(os.getpid()), engine, str(columns), str(reserve_bytes)),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=_environment(device),
                cwd="/",
                limit=LINE_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            raise AttestError(f"the process for {device} cannot be started: {error}") from error
        return cls(device, process)

    async def ask(self, question: msgspec.Struct, timeout_s: float) -> Reply:
        """One question and its answer. Raises AttestError."""
        assert self._process.stdin
        with contextlib.suppress(ConnectionError):  # its end is told by the answer that is missing
            self._process.stdin.write(msgspec.json.encode(question) + b"\n")
            await self._process.stdin.drain()
        return await self.reply(timeout_s)

    async def reply(self, timeout_s: float) -> Reply:
        """The next answer. Raises AttestError; then the child is of no use any more."""
        assert self._process.stdout
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
            reply = msgspec.json.decode(line, type=Reply) if line else None
        except TimeoutError as error:
            raise AttestError(f"{self._device} has not answered for {timeout_s:g} s") from error
        except (ValueError, msgspec.MsgspecError) as error:  # a line over the limit, or one that is no reply
            raise AttestError(f"{self._device} answered what is no answer") from error
        if reply is None:
            said = one_line(await self._last_words())
            raise AttestError(f"the process for {self._device} ended{f': {said}' if said else ''}")
        if reply.error:
            raise AttestError(f"{self._device}: {one_line(reply.error)}")
        return reply

    def kill(self) -> None:
        """SIGKILL, without waiting."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Returns when it was reaped."""
        await self._process.wait()
        self._stderr.cancel()

    async def _last_words(self) -> bytes:
        await asyncio.wait({self._stderr}, timeout=1.0)
        lines = self._stderr.result().splitlines() if self._stderr.done() else []
        return lines[-1] if lines else b""

    async def _read_stderr(self) -> bytes:
        assert self._process.stderr
        said = b""
        while chunk := await self._process.stderr.read(STDERR_BYTES):
            said = (said + chunk)[-STDERR_BYTES:]
        return said.strip()


def _environment(device: str) -> Mapping[str, str]:
    """It sees its own GPU alone, or none."""
    return {**worker_environment(), "CUDA_VISIBLE_DEVICES": "" if device == CPU else device}
