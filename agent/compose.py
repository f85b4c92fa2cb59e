"""Composition: opens the edges that the configuration names, and wires the stages to them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog

from agent.config import Config, EngineKind, Running
from agent.core import events as ev
from agent.core.checks.verdict import Thresholds
from agent.core.errors import StorageError
from agent.core.fingerprint import Model, Pool, SandboxFacts
from agent.core.gpu import GpuPlace, GpuReport, units
from agent.core.gpu_policy import GpuGates
from agent.core.health import Health
from agent.core.model import TaskKind
from agent.core.node import Node
from agent.core.proof.beacon import kept
from agent.core.watchdog import Pulse, Tally
from agent.edges.drand import load_bls
from agent.edges.engines.build import PoolBuilder, build_pools
from agent.edges.engines.placement import GpuRoom
from agent.edges.gpu.findings import FindingsFile
from agent.edges.gpu.matrix_children import MatrixChildren
from agent.edges.gpu.models import card_table
from agent.edges.gpu.probe import NoGpuProbe, NvmlProbe
from agent.edges.gpu.xids import xid_table
from agent.edges.host import Host
from agent.edges.identity import NodeIdentity
from agent.edges.joining import join
from agent.edges.link.baton import link_to
from agent.edges.models.store import Progress
from agent.edges.models.thresholds import shelf
from agent.edges.outbox import OUTBOX_NAME, SqliteOutbox
from agent.edges.owner import Machine, gpu_policy, owner_policy
from agent.edges.proofs import PROOFS_NAME, SqliteProofs
from agent.edges.sandbox.build import build_sandbox
from agent.edges.sandbox.vram import GpuMemoryGuard
from agent.edges.transcripts import DIRECTORY_NAME, FileTranscripts
from agent.ports import Clock, EnginePool, GpuProbe, Sandbox
from agent.stages.advertise import Advertise
from agent.stages.attest import Attest
from agent.stages.calls import Caller
from agent.stages.deliver import Deliver
from agent.stages.drain import Drain
from agent.stages.engines import Engine
from agent.stages.execute import Execute
from agent.stages.hearing import Hearing
from agent.stages.herald import Herald
from agent.stages.overview import Overview
from agent.stages.owner import Owner
from agent.stages.pausing import Pausing
from agent.stages.probe import Probe, fingerprint
from agent.stages.protect import Protect
from agent.stages.prove import Prove
from agent.stages.pull import Pull
from agent.stages.release import Release
from agent.stages.report import Report
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate
from agent.stages.stream import Stream
from agent.stages.supply import Supply
from agent.stages.validate import Validate
from agent.stages.vitals import Vitals
from agent.stages.watch import Watch

if TYPE_CHECKING:
    from agent.edges.programs.build import Programs

BOUNDS_S = {
    "owner": 60.0,
    **{"probe": 60.0, "advertise": 240.0, "watch": 30.0, "report": 900.0},
    **{"pull": 240.0, "execute": 60.0, "stream": 240.0, "prove": 60.0, "store": 60.0},
}
"""Longest silence of each loop. Advertise: a call may open a session (45 s) and be repeated in a new one, then the
longest beat (72 s) follows; pull and stream likewise. Report: a batch of results with one 64 MiB blob on a slow line.
The others hand on what they take, and may be silent only while nothing waits for them."""
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
    sandbox: SandboxFacts
    pools: dict[str, EnginePool]
    models: tuple[Model, ...]
    programs: Programs | None


class Parts(NamedTuple):
    """What runs."""

    spine: Spine
    advertise: Advertise
    drain: Drain
    overview: Overview
    pausing: Pausing
    hearing: Hearing
    pulse: Pulse
    storage: StorageGate
    loops: dict[str, Coroutine[Any, Any, None]]


class Composer:
    """Builds one agent. What needs closing goes onto `stack`; `waits` is told what the start waits for, "" when it
    goes on."""

    def __init__(
        self,
        config: Config,
        name: str,
        clock: Clock,
        stack: contextlib.AsyncExitStack,
        progress: Progress,
        waits: Callable[[str], None],
        pools: PoolBuilder = build_pools,
    ) -> None:
        self._config = config
        self._name = name
        self._clock = clock
        self._stack = stack
        self._progress = progress
        self._waits = waits
        self._pools = pools
        self._rng = random.SystemRandom()
        self._room = GpuRoom(reserve_bytes=config.gpu.reserve_mib << 20, taken=exec_gpus(config))
        self._probe: Probe | None = None
        self._storage: StorageGate | None = None
        self._damage: list[str] = []
        """What was found before there was anybody to tell."""

    async def compose(self) -> Parts:
        """Open and wire everything; nothing runs yet. Raises AgentError."""
        edges = await self._open()
        return await self._wire(edges)

    # ------------------------------------------------------------------ edges

    async def _open(self) -> Edges:
        config = self._config
        identity = await self._when_there_is_room(lambda: join(config, self._name, self._clock, self._rng))
        outbox, proofs = await self._outbox(), await self._proofs(identity.node_id)
        gpu = self._gpu()
        self._stack.push_async_callback(gpu.close)
        seen = await self._first_look(gpu)
        sandbox = await self._sandbox()
        facts = await sandbox.probe()
        self._room.see(seen)
        built = await self._pools(
            config, sandbox, self._clock, gpus=self._free(seen), room=self._room, progress=self._progress
        )
        for model in built.models:
            _log.info("model.verified", model=model.name, digest=model.digest, bytes=model.bytes)
        transcripts = await self._transcripts()
        pools: dict[str, EnginePool] = {pool.facts.name: pool for pool in built.pools}
        if programs := await self._programs(sandbox, facts):
            pools[programs.pool.facts.name] = programs.pool
        return Edges(identity, outbox, proofs, transcripts, gpu, seen, sandbox, facts, pools, built.models, programs)

    def _free(self, seen: GpuReport) -> list[str]:
        """GPUs that an engine may take: one that programs get is not shared."""
        return [uuid for uuid in units(seen) if uuid not in exec_gpus(self._config)]

    async def _programs(self, sandbox: Sandbox, facts: SandboxFacts) -> Programs | None:
        if not self._config.exec.enabled:
            return None
        from agent.edges.programs.build import build_programs  # noqa: PLC0415  (only a node with programs holds it)

        return await self._when_there_is_room(
            lambda: asyncio.to_thread(build_programs, self._config, sandbox, facts, self._clock)
        )

    async def _outbox(self) -> SqliteOutbox:
        path = self._config.node.state_dir / OUTBOX_NAME
        outbox = await self._when_there_is_room(lambda: SqliteOutbox.open(path, self._damaged))
        self._stack.push_async_callback(outbox.close)
        return outbox

    async def _proofs(self, node_id: str) -> SqliteProofs:
        path = self._config.node.state_dir / PROOFS_NAME
        proofs = await self._when_there_is_room(
            lambda: SqliteProofs.open(path, lambda what: self._damaged(what, "proofs.recovered"), node_id)
        )
        self._stack.push_async_callback(proofs.close)
        return proofs

    def _damaged(self, what: str, event: str = "outbox.recovered") -> None:
        _log.error(event, detail=what)
        if self._storage is None:
            self._damage.append(what)
        else:
            self._storage.damaged(what)

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
        sandbox = build_sandbox(self._config.sandbox, self._config.node.runtime_dir, self._place_of)
        if reaped := await asyncio.to_thread(sandbox.reap_orphans):
            _log.warning("sandbox.reaped", count=reaped)
        return GpuMemoryGuard(sandbox)

    def _place_of(self, uuid: str) -> GpuPlace | None:
        """By the latest reading: a GPU may appear, or move, after the start. No engine starts before the probe runs."""
        return self._probe.place_of(uuid) if self._probe else None

    # ------------------------------------------------------------------ stages

    async def _wire(self, edges: Edges) -> Parts:
        config, clock, identity, pools = self._config, self._clock, edges.identity, edges.pools
        pulse, host, url = Pulse(BOUNDS_S, started=clock.monotonic()), Host(), identity.enrolment.url
        spine = Spine(Node(identity.node_id, breaker_failures=config.node.breaker_failures), clock)
        first = fingerprint(host, edges.seen, pools.values(), edges.models, edges.sandbox)
        herald = Herald(spine, identity, first)
        choice, top = config.coordinator, config.proof.top_logprobs
        link = link_to(url, herald, clock, transport=choice.transport.value, ca_file=choice.ca_file)
        self._stack.push_async_callback(link.close)
        caller, stream = Caller(link, clock, pulse, self._rng), Stream(link)

        self._storage = storage = StorageGate(spine)
        for what in self._damage:
            storage.damaged(what)
        programs = edges.programs
        artifacts = programs.artifacts if programs else None
        deliver = Deliver(spine, caller, identity, edges.outbox, pulse, storage, artifacts)
        herald.owes(await deliver.recall())
        report = Report(spine, caller, identity, edges.outbox, storage, deliver)
        supply = Supply(caller, programs.stock) if programs else None
        validate = self._validate(caller, identity, pools)
        execute = Execute(spine, caller, pools, stream, top_logprobs=top, supply=supply, validate=validate)
        hearing = Hearing(
            clock, caller, identity, edges.outbox, edges.transcripts, edges.proofs, partial(kept, bls=load_bls())
        )
        await hearing.recall()
        retention_s = config.proof.retention_s
        prove = Prove(
            spine,
            identity,
            pools,
            edges.transcripts,
            retention_s=retention_s,
            storage=storage,
            artifacts=artifacts,
            swept_until=hearing.swept_until,
        )
        pull = Pull(spine, caller, identity, edges.outbox)
        limit_s = config.node.drain_limit_s
        attest = Attest(spine, caller, MatrixChildren() if config.gpu.attest else None)
        advertise = Advertise(
            spine, caller, herald, pulse, self._rng, drain_limit_s=limit_s, hearing=hearing, attest=attest
        )
        findings = FindingsFile(config.node.state_dir)
        health = Health(xid_table(), host.facts().boot_id, await asyncio.to_thread(findings.load))
        vitals = Vitals(spine, health, findings, period_s=config.gpu.period_s, cards=card_table())
        hand_back_after_s = config.owner.hand_back_after_s if config.owner.running is Running.HAND_BACK else None
        gates = GpuGates(gpu_policy(config.owner), lent_gpus(config))
        protect = Protect(spine, gates, edges.gpu_memory.others, hand_back_after_s=hand_back_after_s)
        engines = {name: Engine(pool) for name, pool in pools.items()}
        release = Release(spine, {name: engines[name] for name in unloaded_pools(config)}, self._room)
        self._probe = probe = Probe(
            spine,
            herald,
            edges.gpu,
            host,
            engines,
            pulse,
            models=edges.models,
            sandbox=edges.sandbox,
            period_s=config.gpu.period_s,
            report=edges.seen,
            vitals=vitals,
            seen=partial(_each, (edges.gpu_memory.see, self._room.see, protect.see, release.see)),
        )
        owner = Owner(
            spine,
            owner_policy(config.owner),
            Machine(config.owner.programs, battery=not config.owner.on_battery, presence=config.owner.idle_only),
            pulse,
            hand_back_after_s=hand_back_after_s,
        )
        overview = Overview(
            spine,
            herald,
            execute,
            deliver,
            link,
            pulse,
            storage,
            probe,
            pull,
            release,
            hearing.docket,
            attested=attest.found,
            name=self._name,
            url=url,
        )
        tallies: dict[str, Callable[[], Tally]] = {
            "pull": pull.tally,
            "execute": partial(spine.tally, ev.StopWork),
            "stream": stream.tally,
            "prove": partial(spine.tally, ev.Prove),
            "store": partial(spine.tally, ev.StoreResult),
        }
        loops = {
            "probe": probe.run(),
            "advertise": advertise.run(),
            "pull": pull.run(pools),
            "execute": execute.run(),
            "stream": stream.run(),
            "prove": prove.run(),
            "report": report.run(),
            "deliver": deliver.run(),
            "hearing": hearing.run(),
            "attest": attest.run(),
            "owner": owner.run(),
            "watch": Watch(spine, pulse, tallies).run(),
        }
        drain, pausing = Drain(spine, pull, deliver, link), Pausing(spine, herald)
        return Parts(spine, advertise, drain, overview, pausing, hearing, pulse, storage, loops)

    def _validate(self, caller: Caller, identity: NodeIdentity, pools: dict[str, EnginePool]) -> Validate | None:
        """None where no pool checks what others computed."""
        if not any(TaskKind.VERIFY in pool.facts.kinds for pool in pools.values()):
            return None
        config = self._config
        known = shelf(config.proof.calibrations, config.proof.calibration_keys)
        args = {pool.name: pool.args for pool in config.pools}

        def limits(pool: Pool, engine: str, kind: TaskKind) -> Thresholds | None:
            embeds = kind is TaskKind.EMBEDDING
            return known.thresholds_for(pool.model_digest, engine, embeds=embeds, args=args.get(pool.name, ()))

        return Validate(caller, identity, pools, limits, self._clock, lambda: secrets.token_hex(32))


def exec_gpus(config: Config) -> tuple[str, ...]:
    """What programs get, and nobody else."""
    return (config.exec.device,) if config.exec.enabled and config.exec.device != "cpu" else ()


def lent_gpus(config: Config) -> frozenset[str]:
    """Where engines compute that are not ours to start."""
    pools = (pool for pool in config.pools if pool.engine is EngineKind.EXTERNAL)
    return frozenset(uuid for pool in pools for uuid in pool.device.split("+"))


def unloaded_pools(config: Config) -> tuple[str, ...]:
    """Pools whose engines are stopped while the owner wants the memory: those that the agent starts."""
    own = (pool.name for pool in config.pools if pool.engine is not EngineKind.EXTERNAL)
    return tuple(own) if config.owner.unload else ()


def _each(sees: Sequence[Callable[[GpuReport], None]], report: GpuReport) -> None:
    for see in sees:
        see(report)
