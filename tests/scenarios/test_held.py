"""A node among real processes and sockets, with an engine that a test holds still at any moment."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime

import msgspec

from agent.core.model import Outcome, Reason
from agent.core.proof.receipt import verify_bundle
from agent.devnet.coordinator import Coordinator
from agent.devnet.core.records import TaskState
from agent.edges.signing import verify
from tests.patience import within
from tests.scenarios.engine import HeldEngine
from tests.scenarios.world import AgentProcess, World, external


async def held_task(world: World, engine: HeldEngine, **node: object) -> tuple[AgentProcess, str, str]:
    """An agent with one task that stands still in the engine: (agent, model digest, task id)."""
    agent = await world.agent(external(engine.url), **node)
    model = (await world.ready(agent)).fingerprint.pools[0].model_digest
    engine.open.clear()
    task = await world.ask(model)
    await within(engine.asked.acquire())
    return agent, model, task


async def test_a_task_passes_the_whole_path_and_its_receipt_verifies_offline(
    world: World, engine: HeldEngine, coordinator: Coordinator
) -> None:
    agent = await world.agent(external(engine.url))
    model = (await world.ready(agent)).fingerprint.pools[0].model_digest
    task = await world.ask(model)
    view = await world.requester.result(task)
    assert json.loads(view.output)["text"] == "one two three"
    bundle = await world.requester.receipt(task)
    verify_bundle(bundle, verify, coordinator_key=coordinator.public_key)
    await agent.saw("result.receipted", task=task)
    status, text = await agent.verb("receipt", task)
    assert status == 0
    assert json.loads(text)["receipt"]["signature"] == bundle.receipt.signature
    assert agent.noise == []


async def test_sigterm_lets_a_running_task_finish_and_leaves_with_zero(world: World, engine: HeldEngine) -> None:
    agent, _, task = await held_task(world, engine)
    agent.signal(signal.SIGTERM)
    await agent.saw("drain.began", running=1)
    engine.open.set()
    assert await agent.ended() == 0
    view = await world.requester.result(task)
    assert (view.state, view.attempt) == (TaskState.SETTLED, 1)
    assert agent.events("drain.ended")[0]["undelivered"] == 0


async def test_a_task_that_outlasts_the_drain_limit_is_handed_back_and_done_by_another_node(
    world: World, engine: HeldEngine
) -> None:
    agent, _, task = await held_task(world, engine, drain_limit_s=1.0)
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    assert (await agent.saw("attempt.closed", task=task))["outcome"] == "handed_back"
    assert engine.broken == 1
    engine.open.set()
    await world.agent(external(engine.url), name="second")
    view = await world.requester.result(task)
    assert (view.state, view.attempt) == (TaskState.SETTLED, 2)
    assert view.story[0].reason is Reason.DRAIN_LIMIT


async def test_a_second_sigterm_hands_back_at_once(world: World, engine: HeldEngine) -> None:
    agent, _, task = await held_task(world, engine)
    agent.signal(signal.SIGTERM)
    await agent.saw("drain.began")
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    assert (await world.requester.task(task)).story[0].outcome is Outcome.HANDED_BACK


async def test_sigquit_aborts(world: World, engine: HeldEngine) -> None:
    agent, _, task = await held_task(world, engine)
    agent.signal(signal.SIGQUIT)
    assert await agent.ended() == 0
    assert (await world.requester.task(task)).story[0].reason is Reason.ABORTED


async def test_a_killed_agent_comes_back_and_the_task_is_done_exactly_once(world: World, engine: HeldEngine) -> None:
    agent, _, task = await held_task(world, engine)
    agent.signal(signal.SIGKILL)
    await agent.ended()
    engine.open.set()
    await agent.start()
    view = await world.requester.result(task)
    assert (view.state, view.attempt) == (TaskState.SETTLED, 2)
    assert [line.task_id for line in (await world.requester.ledger()).lines] == [task]


async def test_a_cancelled_task_stops_in_the_engine(world: World, engine: HeldEngine) -> None:
    agent, _, task = await held_task(world, engine)
    await world.requester.cancel(task)
    assert (await agent.saw("attempt.closed", task=task))["outcome"] == "cancelled"
    assert (await world.requester.result(task)).state is TaskState.CANCELLED
    engine.open.set()


async def test_an_engine_that_breaks_off_costs_one_attempt_and_not_the_task(world: World, engine: HeldEngine) -> None:
    agent, _, task = await held_task(world, engine)
    engine.tokens = ["one", None]  # type: ignore[list-item]
    engine.open.set()
    await agent.saw("attempt.closed", task=task)
    view = await world.requester.result(task)
    assert view.state in {TaskState.SETTLED, TaskState.FAILED}


async def test_long_poll_carries_everything_that_the_stream_does(world: World, engine: HeldEngine) -> None:
    agent = await world.agent(external(engine.url), start=False)
    await agent.start("--set", "coordinator.transport=poll")
    model = (await world.ready(agent)).fingerprint.pools[0].model_digest
    tasks = [await world.ask(model) for _ in range(5)]
    views = [await world.requester.result(task) for task in tasks]
    assert [view.state for view in views] == [TaskState.SETTLED] * 5
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0


async def test_status_tells_what_runs_and_sighup_keeps_the_old_configuration_when_the_new_one_is_wrong(
    world: World, engine: HeldEngine
) -> None:
    agent, _, task = await held_task(world, engine)
    status, text = await agent.verb("status", "--json")
    assert status == 0
    shown = json.loads(text)
    assert [attempt["task_id"] for attempt in shown["attempts"]] == [task]
    assert (shown["pools"][0]["busy"], shown["pools"][0]["slots"]) == (1, 2)
    good = agent.config.read_text()
    agent.config.write_text(good + "\n[nod]\nname = 3\n")
    agent.signal(signal.SIGHUP)
    kept = await agent.saw("config.kept")
    assert "nod" in json.dumps(kept)
    agent.config.write_text(good)
    agent.signal(signal.SIGHUP)
    await agent.saw("config.reloaded")
    engine.open.set()
    assert (await world.requester.result(task)).state is TaskState.SETTLED


async def test_changed_words_of_the_owner_hold_from_a_reload_on_and_a_faulty_file_takes_none_of_them_back(
    world: World, engine: HeldEngine
) -> None:
    agent = await world.agent(external(engine.url))
    await world.ready(agent)
    before = agent.config.read_text()
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    shut = f'[owner]\ntime_zone = "UTC"\nschedule = ["{days[(datetime.now(UTC).weekday() + 3) % 7]} 0:00-12:00"]\n'
    agent.config.write_text(before + shut)
    agent.signal(signal.SIGHUP)
    assert "needs_restart" not in await agent.saw("config.reloaded")
    assert (await agent.saw("owner.first"))["reason"] == "outside_schedule"
    _, text = await agent.verb("status")
    assert "on the clock of UTC" in text
    agent.config.write_text(before + shut.replace("0:00-12:00", "noon"))
    agent.signal(signal.SIGHUP)
    assert "owner.schedule[0]" in json.dumps(await agent.saw("config.kept"))
    agent.config.write_text(before)  # by which the verb finds the socket
    _, text = await agent.verb("status")
    assert "outside_schedule" in text
    agent.signal(signal.SIGHUP)
    await agent.saw("owner.gone")
    agent.config.write_text(before + "[owner]\npower_limit_w = 200\n")
    agent.signal(signal.SIGHUP)
    assert (await agent.saw("config.reloaded", 3))["needs_restart"] == ["owner.power_limit_w"]


async def test_a_second_agent_on_the_same_state_says_so_and_leaves_the_first_alone(
    world: World, engine: HeldEngine
) -> None:
    agent, _, task = await held_task(world, engine)
    status, text = await agent.verb("run")
    assert status != 0
    assert "already running" in text
    engine.open.set()
    assert (await world.requester.result(task)).state is TaskState.SETTLED


async def test_what_keeps_an_agent_from_starting_is_one_clear_line_and_a_status(
    world: World, engine: HeldEngine
) -> None:
    agent = await world.agent(external(engine.url))
    await world.ready(agent)
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    key = agent.home / "state/node.key"
    key.chmod(0o644)
    status, text = await agent.verb("run")
    assert (status, "chmod 600" in text) == (77, True)
    key.chmod(0o600)
    agent.config.write_text("[node\n")
    status, text = await agent.verb("run")
    assert (status, str(agent.config) in text) == (78, True)


async def test_a_model_with_another_digest_is_named_and_nothing_starts(world: World, engine: HeldEngine) -> None:
    weights = world.home / "weights.gguf"
    weights.write_bytes(os.urandom(1000))
    wrong = "sha256:" + "00" * 32
    pools = f'[[models]]\nname = "m"\npath = "{weights}"\ndigest = "{wrong}"\n'
    agent = await world.agent(pools + '[[pools]]\nname = "p"\nmodel = "m"\n')
    assert await agent.ended() != 0
    assert wrong in agent.story()
    assert msgspec.json.encode(agent.events("engine.ready")) == b"[]"
