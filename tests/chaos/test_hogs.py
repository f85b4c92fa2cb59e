"""A hostile engine in the real sandbox eats what it can get; the node's heartbeats and its other tasks go on."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Rules
from agent.devnet.requester import Requester
from tests.chaos.extent import thorough
from tests.patience import PATIENCE_S
from tests.sandboxes import require_sandbox
from tests.scenarios.engine import HeldEngine
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import AgentProcess, World, external
from tests.tiny_model import write_tiny_model

BEAT_S, BEATS, PROCESSES = 0.5, 6, 48
HOGS = {
    "cpu": "for i in $(seq 1 40); do (while :; do :; done) & done; wait",
    "memory": "exec tail /dev/zero",
    "processes": "while :; do sleep 60 & done",
    "descriptors": 'for i in $(seq 1 40); do perl -e \'push @f, $h while open my $h, "<", "/"; sleep 60\' & done; wait',
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        Coordinator(tmp_path / "coordinator", options=Options(rules=Rules(beat_s=BEAT_S, lease_s=8.0))) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
    ):
        world = World(coordinator.url, requester, coordinator.enrol_token, tmp_path)
        yield world
        await world.close()


async def eating(agent: AgentProcess, appetite: str) -> None:
    """Returns when the hog is at it: all its processes are there, or the kernel has ended it for its memory."""
    if appetite == "memory":
        await agent.saw("engine.ended", pool="hog")
        return
    async with asyncio.timeout(PATIENCE_S):
        while len(psutil.Process(agent.process.pid).children(recursive=True)) < PROCESSES * 3 // 4:
            await asyncio.sleep(0.05)


async def beats(proxy: Proxy, count: int) -> list[float]:
    """When the next `count` heartbeats went out."""
    since = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while len(found := [at for at, path in proxy.posts if path == "/v1/beat" and at > since]) < count:
            await asyncio.sleep(0.05)
    return found


def largest_gap(times: list[float]) -> float:
    return max(b - a for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("appetite", ["cpu", *(pytest.param(it, marks=thorough) for it in HOGS if it != "cpu")])
async def test_heartbeats_and_other_tasks_go_on_while_an_engine_eats(world: World, appetite: str) -> None:
    await asyncio.to_thread(require_sandbox)
    hog = world.home / "hog" / "llama-server"
    hog.parent.mkdir()
    hog.write_text(f"#!/bin/sh\n{HOGS[appetite]}\n")
    for place in (world.home, hog.parent, hog):
        place.chmod(0o755)
    weights = write_tiny_model(world.home / "tiny.gguf")
    async with Proxy(world.url) as proxy, HeldEngine() as engine:
        sandbox = f"[sandbox]\nengine_memory_mib = 128\nengine_pids = {PROCESSES}\n"
        hostile = f'[[pools]]\nname = "hog"\nmodel = "tiny"\ndevice = "cpu"\nbinary = "{hog}"\n'
        models = f'[[models]]\nname = "tiny"\npath = "{weights}"\n'
        agent = await world.agent(sandbox + models + hostile + external(engine.url), url=proxy.url, start=False)
        await agent.start("--set", "coordinator.transport=poll")
        await agent.saw("engine.ready", pool="held")
        await eating(agent, appetite)
        while_eating = await beats(proxy, BEATS)
        model = "sha256:" + "ab" * 32
        view = await world.requester.result(await world.ask(model))
        print(
            f"\n{appetite}: largest gap between heartbeats {largest_gap(while_eating):.2f} s (due every {BEAT_S:g} s)"
        )
        assert view.state is TaskState.SETTLED
        assert agent.events("beat.failed") == []
        assert agent.process.returncode is None
