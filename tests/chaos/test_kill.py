"""After kill -9 an agent is back at once; of its earlier life nothing is left, and nobody else is touched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Rules
from agent.devnet.requester import Requester
from tests.chaos.extent import THOROUGH, thorough
from tests.chaos.traces import cgroup_parents, own_cgroups
from tests.patience import PATIENCE_S
from tests.sandboxes import require_sandbox
from tests.scenarios.engine import HeldEngine
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import AgentProcess, World, external
from tests.tiny_model import write_tiny_model

KILLS = 5 if THOROUGH else 1


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    options = Options(rules=Rules(beat_s=0.5, lease_s=8.0, unstarted_s=2.0, pause_after_failure_s=0.1))
    async with (
        Coordinator(tmp_path / "coordinator", options=options) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
    ):
        world = World(coordinator.url, requester, coordinator.enrol_token, tmp_path)
        yield world
        await world.close()


async def beat_after(proxy: Proxy, moment: float) -> float:
    """Seconds from `moment` to the first heartbeat after it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for at, path in proxy.posts:
                if path == "/v1/beat" and at > moment:
                    return at - moment
            await asyncio.sleep(0.01)


async def test_heartbeats_are_back_after_kill_9(world: World) -> None:
    async with Proxy(world.url) as proxy, HeldEngine() as engine:
        agent = await world.agent(external(engine.url), url=proxy.url, start=False)
        await agent.start("--set", "coordinator.transport=poll")
        await world.ready(agent)
        waits = []
        for _ in range(KILLS):
            killed = time.monotonic()
            await agent.kill()
            await agent.start("--set", "coordinator.transport=poll")
            waits.append(await beat_after(proxy, killed))
        print("\nheartbeats again after kill -9:", ", ".join(f"{wait:.2f} s" for wait in waits))
        assert len(agent.events("session.opened")) >= KILLS


async def tiny_agent(world: World, name: str, **node: object) -> AgentProcess:
    """With a real engine in a real sandbox."""
    await asyncio.to_thread(require_sandbox)
    weights = world.home / f"{name}.gguf"
    write_tiny_model(weights)
    return await world.agent(
        f'[[models]]\nname = "tiny"\npath = "{weights}"\n[[pools]]\nname = "say"\nmodel = "tiny"\n'
        'device = "cpu"\ncontext_tokens = 512\nthreads = 1\n',
        name=name,
        **node,
    )


def engines(agent: AgentProcess) -> list[psutil.Process]:
    """The llama-servers below this agent."""
    below = psutil.Process(agent.process.pid).children(recursive=True)
    return [process for process in below if "llama-server" in " ".join(process.cmdline()[:1])]


@contextlib.contextmanager
def foreign(runtime: Path) -> Iterator[list[Path]]:
    """Places that look like an agent's and belong to none of these: cgroups of another tag, a directory beside ours."""
    places = [parent / f"gpu-agent-none-{os.getpid()}" for parent in cgroup_parents()]
    places.append(runtime.with_name(f"{runtime.name}-other"))
    with contextlib.ExitStack() as stack:
        for place in places:
            place.mkdir()
            stack.callback(place.rmdir)
        yield places


def sockets_of(agent: AgentProcess) -> set[Path]:
    return set(agent.runtime.glob("**/*"))


async def test_nothing_of_a_killed_agent_is_left_after_the_next_start_and_a_neighbour_goes_on(world: World) -> None:
    agent, neighbour = await tiny_agent(world, "first"), await tiny_agent(world, "neighbour")
    await world.ready(agent)
    await world.ready(neighbour)
    [mine], [theirs] = engines(agent), engines(neighbour)
    their_groups = own_cgroups(neighbour.runtime)
    groups, left = own_cgroups(agent.runtime), sockets_of(agent)
    await agent.kill()
    await asyncio.to_thread(psutil.wait_procs, [mine], PATIENCE_S)
    assert not mine.is_running()
    with foreign(agent.runtime) as others:
        await agent.start()
        await agent.saw("engine.ready", count=2)
        assert all(place.exists() for place in others)
    [again] = engines(agent)
    assert theirs.is_running()
    assert again.pid != mine.pid
    assert len(own_cgroups(agent.runtime)) == len(groups)
    assert not groups & own_cgroups(agent.runtime)
    assert own_cgroups(neighbour.runtime) == their_groups
    stale = {path for path in left if path.name == "engine.sock" or path.suffix == ".sock"} & sockets_of(agent)
    assert stale <= {agent.runtime / "control.sock"}
    assert len(sockets_of(agent)) == len(left)


@thorough
async def test_an_engine_that_is_killed_comes_back_and_its_task_is_done(world: World) -> None:
    agent = await tiny_agent(world, "node")
    model = (await world.ready(agent)).fingerprint.models[0].digest
    [engine] = engines(agent)
    engine.kill()
    await agent.saw("engine.ended")
    task = await world.ask(model)
    view = await world.requester.result(task)
    assert view.state is TaskState.SETTLED, view
    assert len(agent.events("engine.ready")) >= 2


@thorough
async def test_a_model_file_that_is_deleted_is_told_and_the_node_goes_on_when_it_is_back(world: World) -> None:
    agent = await tiny_agent(world, "node")
    model = (await world.ready(agent)).fingerprint.models[0].digest
    weights = world.home / "node.gguf"
    aside = weights.rename(world.home / "aside.gguf")
    [engine] = engines(agent)
    engine.kill()
    told = await agent.saw("engine.ended", count=2)
    assert "node.gguf" in told["detail"]
    assert agent.process.returncode is None
    status, text = await agent.verb("status")
    assert (status, "pool_not_ready" in text, "node.gguf" in text) == (0, True, True)
    aside.rename(weights)
    task = await world.ask(model)
    assert (await world.requester.result(task)).state is TaskState.SETTLED
