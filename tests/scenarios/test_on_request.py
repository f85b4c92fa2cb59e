"""Drain, pause and resume on request: of the owner by a verb, of the coordinator by a directive. The daemon stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from agent.devnet.coordinator import Coordinator
from agent.devnet.core.records import TaskState
from agent.edges.pauses import FILE_NAME
from tests.patience import PATIENCE_S
from tests.scenarios.engine import HeldEngine
from tests.scenarios.test_held import held_task
from tests.scenarios.world import AgentProcess, World, external

Ask = Callable[[AgentProcess, Coordinator, str], Awaitable[None]]


async def by_verb(agent: AgentProcess, _coordinator: Coordinator, what: str) -> None:
    status, text = await agent.verb(what)
    assert status == 0, text


async def by_directive(agent: AgentProcess, coordinator: Coordinator, what: str) -> None:
    [node_id] = coordinator.desk.book.nodes
    coordinator.direct(node_id, what)


async def state_of(coordinator: Coordinator, wanted: str) -> None:
    """Wait until a beat has told it."""
    async with asyncio.timeout(PATIENCE_S):
        while next(iter(coordinator.desk.book.nodes.values())).state != wanted:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("ask", [by_verb, by_directive])
async def test_a_drain_finishes_what_runs_and_takes_nothing_until_resume(
    world: World, engine: HeldEngine, coordinator: Coordinator, ask: Ask
) -> None:
    agent, model, task = await held_task(world, engine)
    await ask(agent, coordinator, "drain")
    await agent.saw("node.moved", after="draining")
    engine.open.set()
    assert (await world.requester.result(task)).state is TaskState.SETTLED
    await agent.saw("node.moved", after="drained")
    waiting = await world.ask(model)
    await state_of(coordinator, "drained")
    assert (await world.requester.task(waiting)).state is TaskState.QUEUED
    await ask(agent, coordinator, "resume")
    assert (await world.requester.result(waiting)).state is TaskState.SETTLED
    assert agent.process.returncode is None


async def test_a_drain_on_request_hands_back_at_its_limit(
    world: World, engine: HeldEngine, coordinator: Coordinator
) -> None:
    agent, _, task = await held_task(world, engine, drain_limit_s=1.0)
    await by_verb(agent, coordinator, "drain")
    closed = await agent.saw("attempt.closed", task=task)
    assert (closed["outcome"], closed["reason"]) == ("handed_back", "drain_limit")
    engine.open.set()
    await by_verb(agent, coordinator, "resume")
    view = await world.requester.result(task)
    assert (view.state, view.attempt) == (TaskState.SETTLED, 2)


@pytest.mark.parametrize("ask", [by_verb, by_directive])
async def test_a_pause_lets_what_runs_go_on_and_takes_nothing_until_resume(
    world: World, engine: HeldEngine, coordinator: Coordinator, ask: Ask
) -> None:
    agent, model, task = await held_task(world, engine)
    await ask(agent, coordinator, "pause")
    await agent.saw("node.moved", after="paused")
    waiting = await world.ask(model)
    engine.open.set()
    assert (await world.requester.result(task)).state is TaskState.SETTLED
    await state_of(coordinator, "paused")
    assert (await world.requester.task(waiting)).state is TaskState.QUEUED
    await ask(agent, coordinator, "resume")
    assert (await world.requester.result(waiting)).state is TaskState.SETTLED


async def test_a_pause_outlives_a_kill_and_a_file_of_it_that_is_damaged_until_resume(
    world: World, engine: HeldEngine
) -> None:
    agent = await world.agent(external(engine.url))
    model = (await world.ready(agent)).fingerprint.pools[0].model_digest
    assert (await agent.verb("pause", "--for", "2h"))[0] == 0
    await agent.kill()
    await agent.start()
    await agent.saw("agent.ready", 2)
    assert "paused for another 1 h" in await why_idle(agent)

    await agent.kill()
    (agent.home / "state" / FILE_NAME).write_bytes(b"[{")
    await agent.start()
    await agent.saw("agent.ready", 3)
    waiting = await world.ask(model)
    assert "is damaged" in await why_idle(agent)
    assert (await world.requester.task(waiting)).state is TaskState.QUEUED
    assert (await agent.verb("resume"))[0] == 0
    assert (await world.requester.result(waiting)).state is TaskState.SETTLED
    assert not (agent.home / "state" / FILE_NAME).exists()


async def why_idle(agent: AgentProcess) -> str:
    _, text = await agent.verb("status", "--json")
    return "; ".join(gate["detail"] for gate in json.loads(text)["why_idle"] if gate["reason"] == "paused")
