"""An engine that talks rubbish, dies, or stands still: one attempt is lost, the task is not."""

from __future__ import annotations

import json

from agent.core.model import Outcome, Reason
from agent.devnet.core.records import TaskState
from tests.patience import within
from tests.scenarios.engine import HeldEngine
from tests.scenarios.world import AgentProcess, World, external


async def serving(world: World, engine: HeldEngine) -> tuple[AgentProcess, str]:
    agent = await world.agent(external(engine.url))
    node = await world.ready(agent)
    assert node.fingerprint is not None
    return agent, node.fingerprint.pools[0].model_digest


async def test_an_engine_that_answers_garbage_costs_one_attempt(world: World, engine: HeldEngine) -> None:
    agent, model = await serving(world, engine)
    engine.garbage = b"data: {not json\n\n"
    task = await world.ask(model)
    line = await agent.saw("attempt.closed", task=task, outcome="failed")
    assert (line["reason"], bool(line["detail"])) == ("engine_garbage", True)
    engine.garbage = b""
    view = await world.requester.result(task)
    assert (view.state, view.attempt) == (TaskState.SETTLED, 2)
    assert (view.story[0].outcome, view.story[0].reason) == (Outcome.FAILED, Reason.ENGINE_GARBAGE)


async def test_an_engine_that_dies_is_told_in_the_status_and_used_again_when_it_is_back(
    world: World, engine: HeldEngine
) -> None:
    agent, model = await serving(world, engine)
    engine.open.clear()
    task = await world.ask(model)
    await within(engine.asked.acquire())
    await engine.stop()
    line = await agent.saw("attempt.closed", task=task, outcome="failed")
    assert line["reason"] == "engine_unavailable"
    await agent.saw("engine.unready", 3)
    _, told = await agent.verb("status", "--json")
    shown = json.loads(told)
    assert [gate["reason"] for gate in shown["why_idle"]] == ["pool_not_ready"]
    assert "Start it, or correct pools.url" in shown["pools"][0]["detail"]
    engine.open.set()
    await engine.start()
    view = await world.requester.result(task)
    assert view.state is TaskState.SETTLED
    assert [episode.outcome for episode in view.story].count(Outcome.FAILED) == 1  # what came later was declined


async def test_an_engine_that_stands_still_holds_a_task_no_longer_than_its_deadline(
    world: World, engine: HeldEngine
) -> None:
    agent, model = await serving(world, engine)
    engine.open.clear()
    task = await world.ask(model, deadline_s=4.0)
    await within(engine.asked.acquire())
    line = await agent.saw("attempt.closed", task=task)
    assert line["reason"] in ("deadline_passed", "cancelled_by_requester", "lease_lost")
    await within(engine.left.acquire())
    assert (await world.requester.result(task)).state is TaskState.FAILED
    engine.open.set()
    assert (await world.requester.result(await world.ask(model))).state is TaskState.SETTLED
