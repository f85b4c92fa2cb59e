"""SIGTERM at each state of an attempt: what is done is delivered, the rest handed back, and the log says which."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.core import wire
from agent.core.errors import StorageError
from agent.core.model import Outcome, Reason, State
from agent.devnet.coordinator import Coordinator
from agent.devnet.core.records import TaskState
from tests import builders
from tests.patience import within
from tests.scenarios.engine import HeldEngine
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import AgentProcess, World, external
from tests.stages.paper import confirmed
from tests.stages.rig import Rig

LONG_S, SHORT_S = 30.0, 0.5


@pytest.fixture
async def proxy(coordinator: Coordinator) -> AsyncIterator[Proxy]:
    async with Proxy(coordinator.url) as proxy:
        yield proxy


async def polling(world: World, engine: HeldEngine, proxy: Proxy, *, limit_s: float) -> tuple[AgentProcess, str]:
    """An agent on the long-poll transport behind the proxy, and its model's digest."""
    agent = await world.agent(external(engine.url), start=False, url=proxy.url, drain_limit_s=limit_s)
    await agent.start("--set", "coordinator.transport=poll")
    return agent, (await world.ready(agent)).fingerprint.pools[0].model_digest


async def told(agent: AgentProcess) -> dict:
    """The last word of a drain; the agent has left with 0."""
    assert await agent.ended() == 0, agent.story()
    assert agent.noise == []
    return agent.events("drain.ended")[0]


async def by_another(world: World, engine: HeldEngine, task: str) -> None:
    """Another node does what the first one left."""
    engine.open.set()
    await world.agent(external(engine.url), name="second")
    view = await world.requester.result(task)
    assert view.state is TaskState.SETTLED, view
    assert [line.task_id for line in (await world.requester.ledger()).lines] == [task]


# --------------------------------------------------------------------------- processes


async def test_leased_with_time_left_is_finished(world: World, engine: HeldEngine, proxy: Proxy) -> None:
    agent, model = await polling(world, engine, proxy, limit_s=LONG_S)
    start = proxy.hold("/v1/start")
    task = await world.ask(model)
    await within(start.caught.wait())
    agent.signal(signal.SIGTERM)
    await agent.saw("drain.began", running=1)
    start.go.set()
    assert (await told(agent))["undelivered"] == 0
    assert (await world.requester.result(task)).attempt == 1
    assert agent.events("attempt.closed")[0]["outcome"] == "succeeded"
    assert agent.events("drain.ended")[0]["finished"] == 1


async def test_leased_at_the_limit_is_given_back_unstarted(world: World, engine: HeldEngine, proxy: Proxy) -> None:
    agent, model = await polling(world, engine, proxy, limit_s=SHORT_S)
    start = proxy.hold("/v1/start")
    task = await world.ask(model)
    await within(start.caught.wait())
    agent.signal(signal.SIGTERM)
    await told(agent)
    closed = agent.events("attempt.closed")[0]
    assert (closed["outcome"], closed["reason"]) == ("declined", "drain_limit")
    assert engine.finished == 0
    await by_another(world, engine, task)


async def test_a_finished_result_without_its_receipt_is_delivered_by_the_next_start(
    world: World, engine: HeldEngine, proxy: Proxy
) -> None:
    agent, model = await polling(world, engine, proxy, limit_s=SHORT_S)
    result = proxy.hold("/v1/result", before=True)
    task = await world.ask(model)
    await within(result.caught.wait())
    agent.signal(signal.SIGTERM)
    ended = await told(agent)
    assert (ended["undelivered"], ended["finished"], "abandoned" in ended) == (1, 0, False)
    assert (await world.requester.task(task)).state is not TaskState.SETTLED
    result.go.set()
    await agent.start("--set", "coordinator.transport=poll")
    view = await world.requester.result(task)
    assert (view.state, view.attempt) == (TaskState.SETTLED, 1)
    assert engine.finished == 1


async def test_a_receipt_that_is_lost_on_its_way_is_asked_for_again_and_nothing_is_paid_twice(
    world: World, engine: HeldEngine, proxy: Proxy
) -> None:
    agent, model = await polling(world, engine, proxy, limit_s=SHORT_S)
    receipt = proxy.hold("/v1/result")
    task = await world.ask(model)
    await within(receipt.caught.wait())
    agent.signal(signal.SIGTERM)
    assert (await told(agent))["undelivered"] == 1
    receipt.go.set()
    await agent.start("--set", "coordinator.transport=poll")
    again = await agent.saw("result.receipted", task=task)
    assert again["status"] == "duplicate"
    assert [line.task_id for line in (await world.requester.ledger()).lines] == [task]


async def test_a_pull_whose_answer_is_under_way_is_waited_for(world: World, engine: HeldEngine, proxy: Proxy) -> None:
    agent, model = await polling(world, engine, proxy, limit_s=LONG_S)
    pull = proxy.hold("/v1/pull")
    task = await world.ask(model)
    await within(pull.caught.wait())
    agent.signal(signal.SIGTERM)
    await agent.saw("drain.began", running=0)
    pull.go.set()
    await told(agent)
    assert agent.events("offer.declined")[0]["reason"] == "draining"
    await by_another(world, engine, task)


async def test_a_pull_whose_answer_never_comes_is_waited_for_no_longer_than_the_limit(
    world: World, engine: HeldEngine, proxy: Proxy
) -> None:
    agent, model = await polling(world, engine, proxy, limit_s=SHORT_S)
    pull = proxy.hold("/v1/pull")
    task = await world.ask(model)
    await within(pull.caught.wait())
    agent.signal(signal.SIGTERM)
    assert (await told(agent))["undelivered"] == 0
    await by_another(world, engine, task)


# --------------------------------------------------------------------------- states that a process passes too quickly


@asynccontextmanager
async def leaving(rig: Rig, limit_s: float) -> AsyncIterator[asyncio.Task[bool]]:
    """A drain under way, with the parked pull answered."""
    leaving = asyncio.create_task(rig.drain.leave(limit_s, asyncio.Event()))
    await rig.until(lambda: rig.coordinator.sent(wire.Beat)[-1].state == "draining")
    rig.coordinator.answers[wire.Pull] = lambda _m: wire.Offers()
    rig.coordinator.offer(builders.offer("late"))
    yield leaving


def state(rig: Rig) -> State | None:
    attempt = rig.node.attempts.get(builders.offer().key)
    return attempt.state if attempt else None


async def staging(rig: Rig) -> None:
    """An attempt that waits for its engine."""
    rig.coordinator.answers[wire.Start] = lambda start: (
        rig.pool_ready(False),
        confirmed(start),
    )[1]
    rig.coordinator.offer(builders.offer())
    await rig.until(lambda: state(rig) is State.STAGING)


async def test_staging_with_time_left_is_finished() -> None:
    async with Rig() as rig:
        await staging(rig)
        async with leaving(rig, 60.0) as gone:
            rig.pool_ready(True)
            await within(gone)
        assert rig.outbox.ledger[builders.offer().idem_key].status is wire.ReceiptStatus.ACCEPTED


async def test_staging_at_the_limit_is_handed_back() -> None:
    async with Rig() as rig:
        await staging(rig)
        async with leaving(rig, 8.0) as gone:
            await rig.pass_time(8.5)
            body = rig.opened(await rig.coordinator.saw(wire.Result))
            assert (body.outcome, body.reason) == (Outcome.HANDED_BACK, Reason.DRAIN_LIMIT)
            assert await within(gone)
        assert rig.engine.started == 0


async def test_proving_is_finished_even_past_the_limit() -> None:
    """What is computed is not thrown away: the disk gets its room, and the result goes out."""
    async with Rig() as rig:
        rig.transcripts.fails = StorageError("no space left", full=True)
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: state(rig) is State.PROVING)
        async with leaving(rig, 3.0) as gone:
            await rig.pass_time(3.5)
            assert state(rig) is State.PROVING
            rig.transcripts.fails = None
            await rig.pass_time(6.0)
            await within(gone)
        assert rig.outbox.ledger[builders.offer().idem_key].status is wire.ReceiptStatus.ACCEPTED


async def test_what_cannot_be_kept_or_delivered_in_time_is_named_as_abandoned() -> None:
    """A disk that stays full: the lease runs out and another node does the task; the exit status is not 0."""
    async with Rig() as rig:
        rig.transcripts.fails = StorageError("no space left", full=True)
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: state(rig) is State.PROVING)
        async with leaving(rig, 0.1) as gone:
            assert await within(gone) is False


async def test_reporting_is_delivered_when_the_coordinator_comes_back_in_time() -> None:
    async with Rig() as rig:
        rig.outbox.full = True
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: state(rig) is State.REPORTING)
        async with leaving(rig, 60.0) as gone:
            rig.outbox.full = False
            await rig.pass_time(6.0)
            await within(gone)
        assert rig.outbox.ledger[builders.offer().idem_key].status is wire.ReceiptStatus.ACCEPTED
