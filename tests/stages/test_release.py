"""Engines end while their owner wants the memory, and the node says when he has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from agent.core import events as ev
from agent.core.gpu import Gpu, GpuProcess, GpuReport, GpuSample
from agent.core.model import Outcome, Reason
from agent.core.release import LIMIT_S, Holding, Taken
from agent.stages.engines import Engine
from agent.stages.release import Release
from tests import builders
from tests.stages.paper import PaperEngine
from tests.stages.rig import Rig

MIB = 1 << 20


class OnGpu(PaperEngine):
    """An engine that counts its lives."""

    def __init__(self, device: str = "GPU-1") -> None:
        super().__init__()
        self.facts = replace(self.facts, device=device)
        self.lives = self.ends = 0

    async def run(self, changed) -> None:
        self.lives += 1
        try:
            await super().run(changed)
        finally:
            self.ends += 1


class Memory:
    """Implements ports.EngineMemory."""

    def taken(self, name: str) -> Taken:
        return Taken()

    def used(self) -> dict[str, int]:
        return {}

    def holding(self, name: str) -> Holding:
        return Holding(bytes_by_gpu={"GPU-1": 4096 * MIB}, pids=frozenset({7}), untold={"GPU-1": 0})


def reading(*pids: int) -> GpuReport:
    users = tuple(GpuProcess(pid=pid, kinds=("compute",), memory_bytes=4096 * MIB) for pid in pids)
    sample = GpuSample(users=users, processes=len(users), memory_used_bytes=4096 * MIB * len(users))
    return GpuReport(gpus=(Gpu(uuid="GPU-1", name="A", index=0, sample=sample),))


class Node:
    """A rig whose one pool has an engine that can be laid to rest."""

    def __init__(self, rig: Rig, pool: OnGpu) -> None:
        self.rig, self.pool, self.engine = rig, pool, Engine(pool)
        self.release = Release(rig.spine, {"main": self.engine}, Memory())

    def changed(self) -> None:
        self.rig.spine.feed(ev.PoolChanged(pool=self.engine.facts))

    async def until(self, fact) -> None:
        await self.rig.until(fact)


@contextlib.asynccontextmanager
async def node_on(device: str = "GPU-1") -> AsyncIterator[Node]:
    async with Rig() as rig:
        node = Node(rig, OnGpu(device))
        running = asyncio.create_task(node.engine.run(node.changed))
        try:
            await node.until(lambda: node.pool.lives == 1 and rig.node.pools["main"].device == device)
            yield node
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_a_pause_ends_the_engine_and_a_resume_starts_it_again() -> None:
    async with node_on() as node:
        node.release.see(reading(7))
        assert node.release.released("main") is None
        node.rig.spine.feed(ev.PauseAsked())
        node.release.see(reading(7))
        await node.until(lambda: node.engine.at_rest and not node.rig.node.pools["main"].ready)
        assert node.pool.ends == 1
        assert node.rig.node.pools["main"].detail == "unloaded for its owner (paused)"
        node.rig.clock.advance(1.0)
        node.release.see(reading(7))
        assert not node.release.released("main").done
        node.rig.clock.advance(0.5)
        node.release.see(reading())
        told = node.release.released("main")
        assert (told.done, told.released_bytes, told.seconds) == (True, 4096 * MIB, 1.5)
        node.rig.spine.feed(ev.ResumeAsked())
        node.release.see(reading())
        await node.until(lambda: node.pool.lives == 2 and node.rig.node.pools["main"].ready)
        assert node.release.released("main") is None


async def test_an_owner_who_wants_engines_left_alone_after_all_has_them_back_though_he_pauses() -> None:
    async with node_on() as node:
        node.rig.spine.feed(ev.PauseAsked())
        node.release.see(reading(7))
        await node.until(lambda: node.engine.at_rest)
        node.release.unload = False
        node.release.see(reading())
        await node.until(lambda: node.pool.lives == 2 and node.rig.node.pools["main"].ready)
        assert not node.release.unloads("main")


async def test_memory_that_is_never_given_back_is_told_once_it_takes_too_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with node_on() as node:
        node.rig.spine.feed(ev.PauseAsked(devices=("GPU-1",)))
        node.release.see(reading(7))
        await node.until(lambda: node.engine.at_rest)
        for _ in range(3):
            node.rig.clock.advance(LIMIT_S)
            node.release.see(reading(7))
        told = node.release.released("main")
        assert (told.done, told.released_bytes) == (False, 0)
        assert (
            told.detail
            == "1 min 30 s after the engine was told to end the driver still lists its process 7 with 4,096 MiB"
        )
        assert capsys.readouterr().out.count("gpu.unreleased") == 1
        node.release.see(reading())  # later than late is released all the same
        assert node.release.released("main").done


async def test_what_runs_there_goes_on_first() -> None:
    async with node_on() as node:
        rig = node.rig
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.spine.feed(ev.PauseAsked())
        node.release.see(reading(7))
        assert not node.engine.wanted_at_rest
        rig.engine.go.set()
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.node.counts[Outcome.SUCCEEDED] == 1
        node.release.see(reading(7))
        await node.until(lambda: node.engine.at_rest)


@pytest.mark.parametrize(
    ("reason", "ends"), [(Reason.GPU_IN_USE, True), (Reason.GPU_HOT, False), (Reason.GPU_POWER, False)]
)
async def test_an_engine_ends_for_who_wants_the_memory_and_not_to_cool_down(reason: Reason, ends: bool) -> None:
    async with node_on() as node:
        node.rig.spine.feed(ev.DeviceGateChanged(devices=("GPU-1",), reason=reason, shut=True))
        node.release.see(reading(7))
        assert node.engine.wanted_at_rest is ends


async def test_an_engine_on_the_processor_stays() -> None:
    async with node_on("cpu") as node:
        node.rig.spine.feed(ev.PauseAsked())
        node.release.see(GpuReport())
        assert (node.release.unloads("main"), node.engine.wanted_at_rest) == (False, False)


async def test_a_word_that_is_taken_back_at_once_leaves_the_engine_running() -> None:
    async with node_on() as node:
        node.engine.rest("briefly")
        node.engine.wake()
        await asyncio.sleep(0)
        node.release.see(reading(7))
        await node.until(lambda: node.engine.facts.ready)
        assert node.pool.lives - node.pool.ends == 1


async def test_a_fault_of_an_engine_reaches_who_runs_it() -> None:
    class Broken(PaperEngine):
        async def run(self, changed) -> None:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await Engine(Broken()).run(lambda: None)
