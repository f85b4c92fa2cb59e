"""A node's machine: the real core and stages, started again and again on a disk that survives."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.core import wire
from agent.core.attempt import OCCUPIES_SLOT
from agent.core.events import DrainAsked, PauseAsked, ResumeAsked
from agent.core.findings import Finding
from agent.core.fingerprint import Cpu, SandboxFacts, Versions
from agent.core.gpu import GpuReport
from agent.core.health import Health
from agent.core.model import State
from agent.core.node import Node, NodeState
from agent.core.proof.beacon import kept
from agent.core.watchdog import Pulse
from agent.devnet.core.presence import node_id_of
from agent.devnet.core.records import NodeRecord
from agent.ports import HostFacts
from agent.stages.advertise import Advertise
from agent.stages.calls import Caller
from agent.stages.deliver import Deliver
from agent.stages.drain import BYE_S, HAND_BACK_GRACE_S, RECEIPT_GRACE_S, Drain
from agent.stages.execute import Execute
from agent.stages.hearing import Hearing
from agent.stages.herald import Herald
from agent.stages.probe import Probe, fingerprint
from agent.stages.prove import Prove
from agent.stages.pull import Pull
from agent.stages.report import Report
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate
from agent.stages.stream import Stream
from agent.stages.supply import Supply
from agent.stages.validate import Validate
from agent.stages.vitals import Vitals
from agent.stages.watch import Watch
from tests.sim.authority import KEY
from tests.sim.clock import SimClock
from tests.sim.disk import NodeDisk, SimOutbox, SimProofs, SimTranscripts
from tests.sim.engine import SimEngine
from tests.sim.keys import SimIdentity, key_of
from tests.sim.loop import Owner, SimTask
from tests.sim.model import LIMITS, TOP
from tests.sim.network import SimLink
from tests.sim.programs import SimArtifacts, SimPrograms, SimStock

if TYPE_CHECKING:
    from tests.sim.world import World

BOUNDS_S = {"probe": 60.0, "advertise": 120.0, "watch": 30.0, "report": 900.0}
POOL = "main"
RETENTION_S = 300.0
"""Short, so that sweeps find something to take."""
WORKS = frozenset({State.STAGING, State.RUNNING})
"""Confirmed by the coordinator: from here on the node relies on its lease."""
LEAVE_SLACK_S = 1.0


class StillHost:
    """Implements ports.HostProbe."""

    def facts(self) -> HostFacts:
        return HostFacts(
            hostname="box",
            cpu=Cpu(model="sim", cores=2, threads=2, arch="x86_64"),
            memory_bytes=8 << 30,
            versions=Versions(agent="0", python="3", kernel="6", os="sim"),
            boot_id="boot",
        )


class NoFindings:
    """Implements ports.Findings."""

    def load(self) -> Sequence[Finding]:
        return ()

    def keep(self, findings: Sequence[Finding]) -> None:
        raise AssertionError("there is no GPU here")


class NoGpu:
    """Implements ports.GpuProbe."""

    async def snapshot(self) -> GpuReport:
        return GpuReport()

    async def settled(self) -> GpuReport:
        return GpuReport()

    async def close(self) -> None:
        return None


class WatchedHerald(Herald):
    """Shows every hello to the truth."""

    told: object = None

    def hello(self, nonce: str) -> wire.Hello:
        self.told(nonce)  # type: ignore[operator]
        return super().hello(nonce)


class Machine:
    """One node, through all its lives."""

    def __init__(self, world: World, index: int, slots: int, drift: float, chance: random.Random) -> None:
        self._world, self.index, self._slots, self._chance = world, index, slots, chance
        self.disk = NodeDisk()
        self.clock = SimClock(world.loop, drift=drift, offset=float(chance.randrange(10, 10_000)))
        self._key = key_of(f"node {index}")
        self.node_id = node_id_of(self._key)
        self.clock_is_wild = False
        """It was set by hours: nothing can be said of what is kept by it."""
        self.alive = False
        self.leaving = False
        self.owner: Owner
        self.node: Node
        self.link: SimLink
        self._lives = 0
        self._loops: list[SimTask] = []
        self._open: dict[str, str] = {}

    @property
    def record(self) -> NodeRecord:
        """As its enrolment left it."""
        return NodeRecord(node_id=self.node_id, node_key=self._key, name=f"n{self.index}", enrolled_at=0)

    # ------------------------------------------------------------------ lives

    def start(self) -> None:
        """The agent starts; if it runs, nothing happens."""
        if self.alive:
            return
        self._lives += 1
        self.alive, self.leaving = True, False
        self.owner = Owner(self._world.loop, f"n{self.index}.{self._lives}")
        self._world.truth.watch(self)
        self._build()
        self._loops = []
        self.owner.spawn(self._run(), "run")
        self._world.note(f"n{self.index} started, life {self._lives}")

    def kill(self) -> None:
        """kill -9."""
        if self.alive:
            self.alive = False
            self.owner.kill()
            self._world.truth.died(self.index)
            self._world.note(f"n{self.index} killed")
            if undone := self.disk.power_cut(self._chance):
                self._world.note(f"n{self.index} lost {undone} receipts that were not flushed")
                self._world.truth.counts["receipts undone"] += undone

    def _build(self) -> None:
        world, clock, chance = self._world, self.clock, self._chance
        identity = SimIdentity(self.node_id, self._key, KEY)
        outbox = SimOutbox(self.disk, self.index, world.truth, chance)
        self.engine = SimEngine(world, self.index, self._slots, chance)
        self._pools = pools = {POOL: self.engine, "programs": SimPrograms(world, self.index, self.disk, chance)}
        self.pulse = pulse = Pulse(BOUNDS_S, started=clock.monotonic())
        self.node = Node(self.node_id)
        self.spine = spine = Spine(self.node, clock)
        sandbox = SandboxFacts(backend="sim", usable=True)
        first = fingerprint(StillHost(), GpuReport(), pools.values(), (), sandbox)
        herald = WatchedHerald(spine, identity, first)
        self._herald = herald
        herald.told = lambda nonce: world.truth.hello(self, nonce)
        self.link = link = SimLink(world, self.index, herald, clock)
        caller, stream = Caller(link, clock, pulse, chance), Stream(link)
        storage = StorageGate(spine)
        limits = lambda *_: LIMITS  # noqa: E731
        execute = Execute(
            spine,
            caller,
            pools,
            stream,
            top_logprobs=TOP,
            supply=Supply(caller, SimStock(self.disk, chance)),
            validate=Validate(caller, identity, pools, limits, clock, lambda: chance.randbytes(32).hex()),
        )
        artifacts = SimArtifacts(self.disk, chance)
        self.deliver = deliver = Deliver(spine, caller, identity, outbox, pulse, storage, artifacts)
        report = Report(spine, caller, identity, outbox, storage, deliver)
        transcripts = SimTranscripts(self.disk, self.index, world.truth, chance)
        proofs = SimProofs(self.disk, self.index, world.truth, chance)
        self.hearing = hearing = Hearing(clock, caller, identity, outbox, transcripts, proofs, kept)
        prove = Prove(
            spine,
            identity,
            pools,
            transcripts,
            retention_s=RETENTION_S,
            storage=storage,
            artifacts=artifacts,
            swept_until=hearing.swept_until,
        )
        pull = Pull(spine, caller, identity, outbox)
        advertise = Advertise(spine, caller, herald, pulse, chance, drain_limit_s=20, hearing=hearing)
        probe = Probe(
            spine,
            herald,
            NoGpu(),
            StillHost(),
            pools,
            pulse,
            models=(),
            sandbox=sandbox,
            period_s=10.0,
            report=GpuReport(),
            vitals=Vitals(spine, Health({}, "boot"), NoFindings(), period_s=10.0),
        )
        self._drain = Drain(spine, pull, deliver, link)
        self._parts = {
            "probe": probe.run,
            "advertise": advertise.run,
            "pull": lambda: pull.run(list(pools)),
            "execute": execute.run,
            "stream": stream.run,
            "prove": prove.run,
            "report": report.run,
            "deliver": deliver.run,
            "hearing": hearing.run,
            "watch": Watch(spine, pulse).run,
        }

    async def _run(self) -> None:
        self._herald.owes(await self.deliver.recall())
        await self.hearing.recall()
        for name, part in self._parts.items():
            task = self.owner.spawn(part(), name)
            task.add_done_callback(self._ended)
            self._loops.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.truth.violated("agent fault", f"n{self.index} {task.get_name()}: {error!r}")

    # ------------------------------------------------------------------ what its owner does

    def ask(self, what: str, limit_s: float = 20.0) -> None:
        """`gpu-agent drain`, `pause`, `resume`."""
        event = {"drain": DrainAsked(limit_s=limit_s), "pause": PauseAsked(), "resume": ResumeAsked()}[what]
        if self.alive and not self.leaving:
            self._world.note(f"n{self.index} asked to {what}")
            self.owner.call(self.spine.feed, event)

    def leave(self, limit_s: float, abort_after_s: float | None) -> None:
        """SIGTERM, and a second one later."""
        if self.alive and not self.leaving:
            self.leaving = True
            self._world.note(f"n{self.index} drains and ends, limit {limit_s:.1f}, abort after {abort_after_s}")
            self.owner.spawn(self._leave(limit_s, abort_after_s), "leave")

    async def _leave(self, limit_s: float, abort_after_s: float | None) -> None:
        abort, began = asyncio.Event(), self._world.loop.time()
        if abort_after_s is not None:
            self._world.loop.call_later(abort_after_s, abort.set)
        await self._drain.leave(limit_s, abort)
        took_s = self._world.loop.time() - began
        longest_s = limit_s + 2 * HAND_BACK_GRACE_S + RECEIPT_GRACE_S + BYE_S + LEAVE_SLACK_S
        self._world.truth.left(self, took_s, longest_s, began)
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self.kill()

    # ------------------------------------------------------------------ looked at after each of its steps

    def look(self) -> None:
        """Slots are never given twice, and no attempt is in two places."""
        truth = self._world.truth
        busy = Counter[str]()
        for key, attempt in self.node.attempts.items():
            busy[attempt.pool] += attempt.state in OCCUPIES_SLOT
            if attempt.state in WORKS:
                truth.deadlines[self.index, key] = self.clock.virtual(attempt.lease_deadline)
            if attempt.state is not State.REPORTING:
                idem = attempt.offer.idem_key
                if idem in self.disk.rows or idem in self.disk.ledger:
                    truth.violated("attempt in two places", f"n{self.index} {idem}: {attempt.state} and on the disk")
            if (place := self._open.get(attempt.offer.idem_key)) != attempt.state:
                self._open[attempt.offer.idem_key] = attempt.state
                self._world.note(f"n{self.index} {attempt.offer.idem_key} {place or ''}>{attempt.state}")
        for name, pool in self._pools.items():
            if busy[name] > pool.facts.slots:
                truth.violated("credits", f"n{self.index}: {busy[name]} attempts hold {pool.facts.slots} slots")

    def ask_to_serve(self) -> None:
        """After everything is mended a directive may still have been on its way."""
        if self.alive and not self.leaving and self.node.state not in (NodeState.SERVING, NodeState.STARTING):
            self.ask("resume")
