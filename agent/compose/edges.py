"""The edges that the configuration names, opened in the order in which they need each other."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import structlog

from agent.compose.upcalls import Upcalls
from agent.config import Config, EngineKind
from agent.core.errors import StorageError
from agent.core.fingerprint import Model, SandboxFacts
from agent.core.gpu import GpuReport, units
from agent.edges.engines.build import Built, PoolBuilder
from agent.edges.engines.placement import GpuRoom
from agent.edges.gpu.probe import NoGpuProbe, NvmlProbe
from agent.edges.identity import NodeIdentity
from agent.edges.joining import join
from agent.edges.models.store import Progress
from agent.edges.outbox import OUTBOX_NAME, SqliteOutbox
from agent.edges.proofs import PROOFS_NAME, SqliteProofs
from agent.edges.sandbox.build import build_sandbox
from agent.edges.sandbox.vram import GpuMemoryGuard
from agent.edges.transcripts import DIRECTORY_NAME, FileTranscripts
from agent.ports import Clock, EnginePool, GpuProbe, Sandbox

if TYPE_CHECKING:
    from agent.edges.programs.build import Programs

ROOM_RETRY_S = 2.0
"""How often a start on a full disk looks again."""

T = TypeVar("T")

_log = structlog.get_logger("agent")


class Edges(NamedTuple):
    """What was opened."""

    identity: NodeIdentity
    outbox: SqliteOutbox
    proofs: SqliteProofs
    transcripts: FileTranscripts
    gpu: GpuProbe
    seen: GpuReport
    """The first look at the GPUs."""
    gpu_memory: GpuMemoryGuard
    gpu_room: GpuRoom
    sandbox: SandboxFacts
    pools: dict[str, EnginePool]
    models: tuple[Model, ...]
    programs: Programs | None


class Opener:
    """Opens them once. What needs closing goes onto `stack`; `waits` is told what the start waits for, "" when it
    goes on."""

    def __init__(
        self,
        config: Config,
        name: str,
        clock: Clock,
        stack: contextlib.AsyncExitStack,
        progress: Progress,
        waits: Callable[[str], None],
        pools: PoolBuilder,
        upcalls: Upcalls,
    ) -> None:
        self._config = config
        self._name = name
        self._clock = clock
        self._stack = stack
        self._progress = progress
        self._waits = waits
        self._pools = pools
        self._upcalls = upcalls
        self._gpu_room = GpuRoom(reserve_bytes=config.gpu.reserve_mib << 20, taken=exec_gpus(config))

    async def open(self) -> Edges:
        """All of them. Raises AgentError."""
        identity = await self._identity()
        outbox, proofs = await self._outbox(), await self._proofs(identity.node_id)
        gpu = self._gpu()
        self._stack.push_async_callback(gpu.close)
        seen = await self._first_look(gpu)
        sandbox = await self._sandbox()
        facts = await sandbox.probe()
        self._gpu_room.see(seen)
        built = await self._built(sandbox, seen)
        transcripts = await self._transcripts()
        programs = await self._programs(sandbox, facts)
        return Edges(
            identity,
            outbox,
            proofs,
            transcripts,
            gpu,
            seen,
            sandbox,
            self._gpu_room,
            facts,
            _by_name(built, programs),
            built.models,
            programs,
        )

    # ------------------------------------------------------------------ what is kept on the disk

    async def _identity(self) -> NodeIdentity:
        rng = random.SystemRandom()
        return await self._when_there_is_room(lambda: join(self._config, self._name, self._clock, rng))

    async def _outbox(self) -> SqliteOutbox:
        path = self._config.node.state_dir / OUTBOX_NAME
        outbox = await self._when_there_is_room(lambda: SqliteOutbox.open(path, self._upcalls.outbox_damaged))
        self._stack.push_async_callback(outbox.close)
        return outbox

    async def _proofs(self, node_id: str) -> SqliteProofs:
        path = self._config.node.state_dir / PROOFS_NAME
        proofs = await self._when_there_is_room(lambda: SqliteProofs.open(path, self._upcalls.proofs_damaged, node_id))
        self._stack.push_async_callback(proofs.close)
        return proofs

    async def _transcripts(self) -> FileTranscripts:
        path, quota_bytes = self._config.node.state_dir / DIRECTORY_NAME, self._config.proof.retention_mib << 20
        transcripts = await self._when_there_is_room(
            lambda: asyncio.to_thread(FileTranscripts, path, quota_bytes=quota_bytes)
        )
        self._stack.push_async_callback(transcripts.close)
        return transcripts

    async def _when_there_is_room(self, open_: Callable[[], Awaitable[T]]) -> T:
        """What `open_` returns, tried again as long as the disk takes nothing: to end would make the service manager
        start us again and again, and then give up."""
        waits = False
        while True:
            try:
                opened = await open_()
            except StorageError as error:
                if not error.full:
                    raise
                if not waits:
                    _log.error("storage.unwritable", full=True, detail=str(error))
                    self._waits(str(error))
                waits = True
                await self._clock.sleep(ROOM_RETRY_S)
            else:
                self._waits("")
                return opened

    # ------------------------------------------------------------------ what computes

    def _gpu(self) -> GpuProbe:
        settings = self._config.gpu
        if not settings.enabled:
            return NoGpuProbe()
        return NvmlProbe(self._clock, library=settings.library, deadline_s=settings.deadline_s)

    async def _first_look(self, gpu: GpuProbe) -> GpuReport:
        """A pool that may sit on a GPU waits for a driver that opens slowly (30 s at most); others need not."""
        waits = any(pool.engine is EngineKind.LLAMA_SERVER and pool.device != "cpu" for pool in self._config.pools)
        return await (gpu.settled() if waits else gpu.snapshot())

    async def _sandbox(self) -> GpuMemoryGuard:
        sandbox = build_sandbox(self._config.sandbox, self._config.node.runtime_dir, self._upcalls.place_of)
        if reaped := await asyncio.to_thread(sandbox.reap_orphans):
            _log.warning("sandbox.reaped", count=reaped)
        return GpuMemoryGuard(sandbox)

    async def _built(self, sandbox: Sandbox, seen: GpuReport) -> Built:
        """An engine may take any GPU but the one that programs get."""
        free = [uuid for uuid in units(seen) if uuid not in exec_gpus(self._config)]
        built = await self._pools(
            self._config, sandbox, self._clock, gpus=free, room=self._gpu_room, progress=self._progress
        )
        for model in built.models:
            _log.info("model.verified", model=model.name, digest=model.digest, bytes=model.bytes)
        return built

    async def _programs(self, sandbox: Sandbox, facts: SandboxFacts) -> Programs | None:
        if not self._config.exec.enabled:
            return None
        from agent.edges.programs.build import build_programs  # noqa: PLC0415  (only a node with programs holds it)

        return await self._when_there_is_room(
            lambda: asyncio.to_thread(build_programs, self._config, sandbox, facts, self._clock)
        )


def exec_gpus(config: Config) -> tuple[str, ...]:
    """What programs get, and nobody else."""
    return (config.exec.device,) if config.exec.enabled and config.exec.device != "cpu" else ()


def _by_name(built: Built, programs: Programs | None) -> dict[str, EnginePool]:
    pools: dict[str, EnginePool] = {pool.facts.name: pool for pool in built.pools}
    if programs is not None:
        pools[programs.pool.facts.name] = programs.pool
    return pools
