"""Slots for programs that tasks bring along: each runs in a sandbox of its own, and nothing of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import structlog
from msgspec.structs import replace

from agent.core import program
from agent.core.archive import ArchiveError
from agent.core.errors import EngineError, SandboxError, StorageError
from agent.core.fingerprint import Pool, ProgramTerms, SandboxFacts
from agent.core.model import ExecInput, ExecLimits, Reason, TaskKind, TaskSpec, Value
from agent.core.proof.files import FileLeaf
from agent.core.proof.signed import Verify
from agent.core.text import plain
from agent.edges.programs.artifacts import FileArtifacts, FileDraft
from agent.edges.programs.collect import Caps, ChangedError, Survey, TooMuchError, pack, survey
from agent.edges.programs.openat2 import why_missing
from agent.edges.programs.stock import Places, Stock
from agent.ports import (
    Clock,
    EngineOutput,
    ExitKind,
    Limits,
    Printed,
    Ran,
    Replayer,
    Sandbox,
    SandboxHandle,
    SandboxSpec,
)

GATHER_S = 0.1
"""What is printed within this time goes out as one chunk."""
PRINTED_BYTES = 32 << 10
TAIL_CHARS = 8 << 10
STDERR_BYTES = 64 << 10
OPEN_FILES = 1024
TRIAL_S = 20
PROBE_S = 60.0
"""A sandbox that does not work now may do so when the owner has changed something."""


class ProgramSettings(Value):
    """What the owner allows."""

    name: str
    slots: int
    publishers: tuple[str, ...]
    most: ExecLimits
    backend: str
    """What isolates the programs, with its version."""
    gpus: tuple[str, ...] = ()


class ProgramPool:
    """Implements ports.EnginePool."""

    def __init__(
        self,
        settings: ProgramSettings,
        *,
        sandbox: Sandbox,
        clock: Clock,
        stock: Stock,
        artifacts: FileArtifacts,
        verify: Verify,
    ) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self._clock = clock
        self._stock = stock
        self._artifacts = artifacts
        self._verify = verify
        self._fractions = False
        """Whether a program may be held to less than a whole processor."""
        self._log = structlog.get_logger("programs")
        self.facts = Pool(
            name=settings.name,
            device="+".join(settings.gpus) or "cpu",
            engine=settings.backend,
            model="exec/v1",
            model_digest=program.RUNTIME,
            kinds=(TaskKind.EXEC,),
            slots=settings.slots,
            context_tokens=1,
            programs=ProgramTerms(publishers=settings.publishers, most=settings.most),
            detail="trying the sandbox",
        )

    async def run(self, changed: Callable[[], None]) -> None:
        """See the port. There is no engine: what has to work is a sandbox with all that may be asked of it."""
        while True:
            most, gpus = self._settings.most, self._settings.gpus
            why = await why_not(self._sandbox, most, gpus)
            self._fractions = not why and not await why_not(self._sandbox, replace(most, cpu_millis=500), gpus)
            if (facts := replace(self.facts, ready=not why, detail=why)) != self.facts:
                self.facts = facts
                self._log.log(
                    logging.WARNING if why else logging.INFO, "programs.ready", ready=not why, detail=why or None
                )
                changed()
            if not why:
                await asyncio.Event().wait()
            await self._clock.sleep(PROBE_S)

    async def check(self, task: TaskSpec) -> None:
        """See the port: whose bundle it is, and what it asks."""
        asked = _asked(task)
        if asked.bundle.publisher not in self._settings.publishers:
            raise EngineError(Reason.UNTRUSTED_BUNDLE, f"publisher {asked.bundle.publisher[:16]}… is not trusted here")
        if not program.published(asked.bundle, self._verify):
            raise EngineError(Reason.UNTRUSTED_BUNDLE, "its publisher did not sign this bundle")
        if over := program.excess(asked.limits, self._settings.most):
            raise EngineError(Reason.LIMIT_TOO_HIGH, "; ".join(over))
        if asked.limits.cpu_millis < 1000 and not self._fractions:
            raise EngineError(Reason.LIMIT_TOO_HIGH, "less than a whole processor cannot be enforced here")
        # So much that what every slot needs can lie here at once.
        room = self._stock.quota_bytes // (self._settings.slots + 1)
        if (needs := sum(program.blobs_of(asked).values())) > room:
            raise EngineError(Reason.LIMIT_TOO_HIGH, f"bundle and inputs have {needs} bytes; {room} can be kept here")

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        """See the port. Yields what is printed as it comes, then the end."""
        asked = _asked(task)
        with self._stock.held(asked) as places:
            handle = await self._start(task, asked, places)
            try:
                printed: list[bytes] = []
                async with contextlib.aclosing(_gathered(handle.stdout())) as pieces:
                    async for piece in pieces:
                        printed.append(piece)
                        yield Printed(data=piece)
                yield await self._ended(asked, handle, b"".join(printed))
            finally:
                handle.close()

    def replayer(self) -> contextlib.AbstractAsyncContextManager[Replayer]:
        """See the port."""
        raise EngineError(Reason.UNSUPPORTED_KIND, "this pool runs programs")

    async def _start(self, task: TaskSpec, asked: ExecInput, places: Places) -> SandboxHandle:
        if not _has_directory(places.bundle, asked.cwd):
            raise EngineError(Reason.BUNDLE_REFUSED, f"the bundle has no directory {asked.cwd}")
        inputs = ((path, f"/in/{name}") for name, path in places.inputs.items())
        spec = SandboxSpec(
            name=self._settings.name,
            argv=_command(asked),
            ro_mounts=((places.bundle, "/bundle"), *inputs),
            cwd=asked.cwd,
            gpus=self._settings.gpus,
            limits=_limits(asked.limits),
            env={"GPU_AGENT_TASK": task.task_id, "GPU_AGENT_SEED": str(task.sampling.seed), **asked.env},
        )
        try:
            return await self._sandbox.start(spec)
        except SandboxError as error:
            raise EngineError(Reason.ENGINE_UNAVAILABLE, error.message, remedy=error.remedy) from error

    async def _ended(self, asked: ExecInput, handle: SandboxHandle, stdout: bytes) -> Ran:
        end = await handle.wait()
        stderr = handle.stderr_tail()
        assert handle.out_fd is not None
        more = {b"stdout": stdout, b"stderr": stderr.encode()}
        try:
            left = await asyncio.to_thread(self._collect, asked, _Root(handle.out_fd), more)
        except (ChangedError, ArchiveError, OSError) as error:
            raise EngineError(Reason.ENGINE_GARBAGE, f"/out cannot be collected: {error}") from error
        except StorageError as error:
            reason = Reason.STORAGE_FULL if error.full else Reason.ENGINE_UNAVAILABLE
            raise EngineError(reason, error.message, remedy=error.remedy) from error
        return Ran(
            end=end,
            members=left.members,
            artifact=left.draft,
            stdout_tail=plain(stdout[-TAIL_CHARS:], TAIL_CHARS),
            stderr_tail=stderr[-TAIL_CHARS:],
            left_out=left.left_out,
            overfull=left.overfull,
        )

    def _collect(self, asked: ExecInput, root: _Root, more: dict[bytes, bytes]) -> _Left:
        """Blocks. Raises ChangedError, ArchiveError, OSError, StorageError."""
        found, overfull = Survey((), ()), ""
        try:
            patterns = [pattern.encode() for pattern in asked.outputs]
            found = survey(root.fd, patterns, Caps(asked.limits.out_bytes))
        except TooMuchError as error:
            overfull = str(error)
        members: list[FileLeaf] = []

        def write(file: BinaryIO) -> None:
            for entry, sha256 in pack(file, root.fd, found.entries, more):
                members.append(FileLeaf(entry.path, entry.size, sha256, entry.executable, entry.directory))

        draft = self._artifacts.draft(write)
        return _Left(tuple(members), draft, found.left_out, overfull)


async def why_not(sandbox: Sandbox, limits: ExecLimits, gpus: tuple[str, ...] = ()) -> str:
    """Why programs with these limits cannot run here, found by running one; empty when they can."""
    if (missing := why_missing()) or (missing := _evaded(await sandbox.probe())):
        return missing
    trial = replace(_limits(limits), wall_s=TRIAL_S)
    try:
        handle = await sandbox.start(SandboxSpec(name="trial", argv=("/bin/true",), gpus=gpus, limits=trial))
    except SandboxError as error:
        return str(error)
    try:
        end = await handle.wait()
    finally:
        handle.close()
    return "" if (end.kind, end.code) == (ExitKind.EXITED, 0) else f"a trial program did not run: {end.detail}"


def _evaded(facts: SandboxFacts) -> str:
    """Which limit a stranger's program could get around; engines, which are not written to, run all the same."""
    for limit in facts.limits:
        if limit.evadable:
            how = f"a program could get around the limit of {limit.limit} here ({limit.how})"
            return f"{how}: run the agent as its systemd service or as root, so that a cgroup bounds it"
    return ""


class _Root:
    """A descriptor of /out of one's own: whoever is cancelled closes the sandbox's while a thread may still read."""

    def __init__(self, fd: int) -> None:
        self.fd = os.dup(fd)
        weakref.finalize(self, os.close, self.fd)


class _Left(NamedTuple):
    """What lay in /out."""

    members: tuple[FileLeaf, ...]
    draft: FileDraft
    left_out: tuple[str, ...]
    overfull: str


def _asked(task: TaskSpec) -> ExecInput:
    if not isinstance(task.input, ExecInput):
        raise EngineError(Reason.UNSUPPORTED_KIND, "this pool runs programs")
    return task.input


def _command(asked: ExecInput) -> tuple[str, ...]:
    """By a shell, which says in its exit status (126, 127) that a program could not be started, as users expect."""
    script = 'exec "$@" 2>&1' if asked.merge_stderr else 'exec "$@"'
    return ("/bin/sh", "-c", script, "sh", *asked.argv)


def _limits(asked: ExecLimits) -> Limits:
    return Limits(
        memory_bytes=asked.memory_bytes,
        pids=asked.pids,
        cpus=asked.cpu_millis / 1000,
        tmp_bytes=asked.tmp_bytes,
        open_files=OPEN_FILES,
        file_bytes=max(asked.tmp_bytes, asked.out_bytes),
        wall_s=asked.wall_s,
        stderr_bytes=STDERR_BYTES,
        stdout_bytes=asked.stdout_bytes,
        out_bytes=asked.out_bytes,
    )


def _has_directory(bundle: Path, cwd: str) -> bool:
    if not cwd.startswith("/bundle"):
        return True  # the sandbox's own
    return (bundle / cwd.removeprefix("/bundle").lstrip("/")).is_dir()


async def _gathered(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """`pieces`, put together while they come fast: a program that prints line by line makes no storm of messages."""
    waiting = bytearray()
    ended, some = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        try:
            async for piece in pieces:
                waiting.extend(piece)
                some.set()
        finally:
            ended.set()
            some.set()

    reading = asyncio.create_task(read(), name="program-stdout")
    try:
        while not ended.is_set() or waiting:
            await some.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), GATHER_S)
            some.clear()
            while waiting:
                piece = bytes(waiting[:PRINTED_BYTES])
                del waiting[:PRINTED_BYTES]
                yield piece
        await reading
    finally:
        reading.cancel()
