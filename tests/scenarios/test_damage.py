"""A node whose outbox is damaged while it is away goes on, says so, and loses only what cannot be read."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from agent.devnet.core.records import TaskState
from tests.scenarios.engine import HeldEngine
from tests.scenarios.world import AgentProcess, World, external


async def damage(agent: AgentProcess) -> list[str]:
    status, told = await agent.verb("status", "--json")
    assert status == 0
    return list(json.loads(told)["storage"]["damage"])


def spoil(path: Path) -> None:
    """Overwrite the root of its second table: SQLite calls that malformed."""
    raw = path.read_bytes()
    path.write_bytes(raw[: 2 * 4096] + b"\xa5" * 4096 + raw[3 * 4096 :])


async def test_a_damaged_outbox_is_told_of_until_the_owner_has_seen_it(world: World, engine: HeldEngine) -> None:
    agent = await world.agent(external(engine.url))
    node = await world.ready(agent)
    assert node.fingerprint is not None
    model = node.fingerprint.pools[0].model_digest
    await world.requester.result(await world.ask(model))
    assert await damage(agent) == []
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    spoil(agent.home / "state/outbox.db")
    await agent.start()
    line = await agent.saw("outbox.recovered")
    assert "kept as outbox.db.corrupt-1" in line["detail"]
    await agent.saw("session.opened", count=2)
    assert await damage(agent) == [line["detail"]]
    _, screen = await agent.verb("status")
    assert "Degraded" in screen
    assert "corrupt-1" in screen
    view = await world.requester.result(await world.ask(model))  # it works all the while
    assert view.state is TaskState.SETTLED
    _, ledger = await agent.verb("tasks", "--json")
    assert len(json.loads(ledger)) == 2
    assert (await agent.verb("resume"))[0] == 0
    assert await damage(agent) == []
