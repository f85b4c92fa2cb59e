"""All stages of one node, wired as the agent wires them, between a scripted coordinator and a scripted engine.

Signatures, transcripts and commitments are real; time is a ManualClock; the world is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import msgspec

from agent.core import wire
from agent.core.model import TaskKind
from agent.core.node import Node
from agent.core.proof.beacon import kept
from agent.core.proof.challenged import Kept
from agent.core.proof.signed import open_signed
from agent.core.watchdog import Pulse
from agent.edges.signing import verify
from agent.stages.advertise import Advertise
from agent.stages.calls import Caller
from agent.stages.deliver import Deliver
from agent.stages.drain import Drain
from agent.stages.execute import Execute
from agent.stages.hearing import Hearing
from agent.stages.herald import Herald
from agent.stages.prove import Prove
from agent.stages.pull import Pull
from agent.stages.report import Report
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate
from agent.stages.stream import Stream
from agent.stages.validate import Limits, Validate
from agent.stages.watch import Watch
from tests import builders
from tests.fakes.clock import ManualClock
from tests.patience import PATIENCE_S
from tests.stages.paper import (
    PaperArtifacts,
    PaperCoordinator,
    PaperEngine,
    PaperIdentity,
    PaperOutbox,
    PaperTranscripts,
)
from tests.stages.paper_proofs import PaperProofs


class Rig:
    """One node. `async with Rig() as rig` runs every loop."""

    def __init__(self, slots: int = 2, limits: Limits | None = None) -> None:
        """`limits`: it also checks what others computed."""
        self.clock = ManualClock()
        self.coordinator = PaperCoordinator()
        self.engine = PaperEngine(slots)
        self.outbox = PaperOutbox()
        self.transcripts = PaperTranscripts()
        self.identity = PaperIdentity(self.coordinator.keys)
        rng = random.Random(1)
        self.pulse = Pulse({"advertise": 60, "watch": 60, "report": 60}, started=0)
        self.spine = Spine(Node(builders.NODE), self.clock)
        self.node = self.spine.node
        pools = {"main": self.engine}
        self.caller = Caller(self.coordinator, self.clock, self.pulse, rng)
        self.stream = Stream(self.coordinator)
        self.validate: Validate | None = None
        if limits is not None:
            kinds = (*self.engine.facts.kinds, TaskKind.VERIFY)
            self.engine.facts = msgspec.structs.replace(self.engine.facts, kinds=kinds)
            self.validate = Validate(self.caller, self.identity, pools, limits, self.clock, lambda: "5a" * 32)
        self.execute = Execute(self.spine, self.caller, pools, self.stream, top_logprobs=40, validate=self.validate)
        self.storage = storage = StorageGate(self.spine)
        self.artifacts = PaperArtifacts()
        self.deliver = Deliver(self.spine, self.caller, self.identity, self.outbox, self.pulse, storage, self.artifacts)
        self.report = Report(self.spine, self.caller, self.identity, self.outbox, storage, self.deliver)
        self.herald = Herald(self.spine, self.identity, builders.fingerprint())
        self.proofs = PaperProofs()
        self.kept: Kept = kept
        self.hearing = hearing = Hearing(
            self.clock,
            self.caller,
            self.identity,
            self.outbox,
            self.transcripts,
            self.proofs,
            self._kept,
        )
        self.prove = Prove(
            self.spine,
            self.identity,
            pools,
            self.transcripts,
            retention_s=3600,
            storage=storage,
            artifacts=self.artifacts,
            swept_until=hearing.swept_until,
        )
        self.pull = Pull(self.spine, self.caller, self.identity, self.outbox)
        self.advertise = Advertise(
            self.spine, self.caller, self.herald, self.pulse, rng, drain_limit_s=60, hearing=hearing
        )
        self.watch = Watch(self.spine, self.pulse)
        self.drain = Drain(self.spine, self.pull, self.deliver, self.coordinator)
        self._tasks: list[asyncio.Task[None]] = []

    def _kept(self, promise: wire.BeaconPromise, beacon: wire.Beacon) -> None:
        """A test may set another check at any time."""
        self.kept(promise, beacon)

    async def __aenter__(self) -> Rig:
        self.herald.owes(await self.deliver.recall())
        await self.hearing.recall()
        loops = [
            self.advertise.run(),
            self.pull.run(["main"]),
            self.execute.run(),
            self.stream.run(),
            self.prove.run(),
            self.report.run(),
            self.deliver.run(),
            self.hearing.run(),
            self.watch.run(),
        ]
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        self.pool_ready(True)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        faults = [e for e in ended if isinstance(e, BaseException) and not isinstance(e, asyncio.CancelledError)]
        assert not faults, faults

    def pool_ready(self, ready: bool) -> None:
        from agent.core.events import PoolChanged

        self.engine.facts = msgspec.structs.replace(self.engine.facts, ready=ready)
        self.spine.feed(PoolChanged(pool=self.engine.facts))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a change of the node after which `condition` holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):  # some conditions are the world's, not the node's
                        await self.spine.changed()

    async def pass_time(self, seconds: float, step_s: float = 0.25) -> None:
        """Move the clock in small steps, letting everybody act between them."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            for _ in range(10):
                await asyncio.sleep(0)

    def opened(self, result: wire.Result) -> wire.ResultBody:
        """The body of a result's only delivery, once the node's signature was verified."""
        (delivery,) = result.deliveries
        raw = open_signed(wire.Role.RESULT, delivery.signed, self.identity.public_key, verify)
        return msgspec.json.decode(raw, type=wire.ResultBody)
