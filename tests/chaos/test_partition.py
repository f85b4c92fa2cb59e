"""A node that cannot renew stops its own attempt before the coordinator gives the task to another."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.core.model import Reason
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Rules
from agent.devnet.requester import Requester
from tests.chaos.extent import thorough
from tests.patience import within
from tests.scenarios.engine import HeldEngine
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import World, external

LEASE_S = 6.0
"""Of which the node holds 4: a machine with much to do may keep a beat waiting for a while before the line is cut."""


class Witness(HeldEngine):
    """Notes when a stream began and when it was broken off, on one clock for all engines."""

    def __init__(self) -> None:
        super().__init__()
        self.began_at = self.broken_at = 0.0
        self.stopped = asyncio.Event()

    async def _chat(self, request):
        if (await request.json())["max_tokens"] == 1:  # the canary
            return await super()._chat(request)
        self.began_at = time.monotonic()
        broken = self.broken
        try:
            return await super()._chat(request)
        finally:
            if self.broken > broken:
                self.broken_at = time.monotonic()
                self.stopped.set()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    rules = Rules(beat_s=0.5, lease_s=LEASE_S, unstarted_s=LEASE_S)
    async with (
        Coordinator(tmp_path / "coordinator", options=Options(rules=rules)) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
    ):
        world = World(coordinator.url, requester, coordinator.enrol_token, tmp_path)
        yield world
        await world.close()


FAULTS: dict[str, Callable[[Proxy], None]] = {
    "cut": lambda proxy: proxy.cut(),
    "silent": lambda proxy: proxy.silence(),
    "answers lost": lambda proxy: proxy.silence(up=False),
}


@pytest.mark.parametrize("fault", ["silent", *(pytest.param(it, marks=thorough) for it in FAULTS if it != "silent")])
async def test_it_stops_before_the_task_is_leased_again(world: World, fault: str) -> None:
    async with Proxy(world.url) as proxy, Witness() as lost, Witness() as other:
        near = await world.agent(external(lost.url), url=proxy.url)
        model = (await world.ready(near)).fingerprint.pools[0].model_digest
        lost.open.clear()
        task = await world.ask(model)
        await within(lost.asked.acquire())
        await world.ready(await world.agent(external(other.url), name="other"))
        FAULTS[fault](proxy)
        if fault == "answers lost":  # beats still arrive and renew the lease over there, so only the node may end it
            await near.saw("attempt.closed", task=task)
            proxy.cut()
        view = await world.requester.result(task)
        assert (view.state, view.attempt) == (TaskState.SETTLED, 2)
        assert (await near.saw("attempt.closed", task=task))["reason"] == Reason.LEASE_EXPIRED
        assert lost.stopped.is_set()
        print(f"\n{fault}: stopped {other.began_at - lost.broken_at:.2f} s before another began (lease {LEASE_S:g} s)")
        assert lost.broken_at < other.began_at
        assert [line.task_id for line in (await world.requester.ledger()).lines] == [task]


@thorough
async def test_a_node_that_stood_still_beyond_its_lease_neither_delivers_nor_is_paid(world: World) -> None:
    async with Witness() as lost, Witness() as other:
        near = await world.agent(external(lost.url))
        model = (await world.ready(near)).fingerprint.pools[0].model_digest
        lost.open.clear()
        task = await world.ask(model)
        await within(lost.asked.acquire())
        await world.ready(await world.agent(external(other.url), name="other"))
        near.signal(signal.SIGSTOP)
        view = await world.requester.result(task)
        near.signal(signal.SIGCONT)
        assert (view.state, view.attempt) == (TaskState.SETTLED, 2)
        await near.saw("attempt.closed", task=task)
        assert [line.node_id for line in (await world.requester.ledger()).lines] == [view.node_id]
