"""A node whose engine fails task after task stops itself, says so everywhere, and comes back."""

from __future__ import annotations

import asyncio
import signal

from agent.core.model import Reason
from agent.devnet.core.records import TaskState
from tests.patience import PATIENCE_S
from tests.scenarios.engine import HeldEngine
from tests.scenarios.world import World, external


async def test_failures_in_a_row_stop_the_pool_until_the_owner_resumes(world: World, engine: HeldEngine) -> None:
    agent = await world.agent(external(engine.url), breaker_failures=3)
    model = (await world.ready(agent)).fingerprint.pools[0].model_digest
    sound = engine.tokens
    engine.tokens = ["one", object()]  # type: ignore[list-item]  # the second cannot be sent: the stream breaks off
    assert (await world.requester.result(await world.ask(model))).state is TaskState.FAILED
    await agent.saw("breaker.moved", state="open", pool="held")
    status, text = await agent.verb("status")
    assert (status, "too_many_failures" in text, "one is tried in" in text) == (0, True, True)
    async with asyncio.timeout(PATIENCE_S):  # the next beat tells the coordinator
        while (await world.requester.nodes()).nodes[0].reason != Reason.TOO_MANY_FAILURES:
            await asyncio.sleep(0.05)
    engine.tokens = sound
    task = await world.ask(model)
    status, text = await agent.verb("resume")
    assert (status, "new tasks may come" in text) == (0, True)
    assert (await world.requester.result(task)).state is TaskState.SETTLED
    await agent.saw("breaker.moved", state="closed", pool="held")


async def test_another_limit_is_taken_over_by_a_reload(world: World, engine: HeldEngine) -> None:
    agent = await world.agent(external(engine.url), breaker_failures=1000)
    model = (await world.ready(agent)).fingerprint.pools[0].model_digest
    engine.tokens = ["one", object()]  # type: ignore[list-item]  # the second cannot be sent: the stream breaks off
    assert (await world.requester.result(await world.ask(model))).state is TaskState.FAILED
    assert agent.events("breaker.moved") == []
    agent.config.write_text(agent.config.read_text().replace("breaker_failures = 1000", "breaker_failures = 2"))
    agent.signal(signal.SIGHUP)
    await agent.saw("breaker.moved", state="trying", pool="held")
    assert "needs_restart" not in await agent.saw("config.reloaded")
    agent.config.write_text(agent.config.read_text() + "\n[owner]\npower_limit_w = 250\n")
    agent.signal(signal.SIGHUP)
    told = await agent.saw("config.reloaded", 2)
    assert (told["level"], told["needs_restart"]) == ("warning", ["owner.power_limit_w"])
