"""The baton between a real stream and a real poll."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from agent.core import wire
from agent.core.baton import FIRST_PROBE_S, STEADY_S
from agent.core.errors import LinkError, LinkFault
from agent.core.model import Reason, Signed
from agent.edges.link.baton import BatonLink, link_to
from agent.edges.link.http import HttpLink
from agent.edges.link.limits import LinkLimits
from agent.edges.link.ws import WebSocketLink
from agent.ports import Link
from tests.fakes.clock import ManualClock
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.mind import KEY, HangUp, Silence, TestNode
from tests.patience import until, within

BEAT = wire.Beat()
PULL = wire.Pull(credits=())


class Stage:
    """A coordinator, a node and the link under test, with time in our hand."""

    def __init__(self, coordinator: FakeCoordinator, limits: LinkLimits | None = None) -> None:
        self.coordinator = coordinator
        self.clock = ManualClock()
        self.node = TestNode()
        coordinator.mind.enlist(self.node)
        limits = limits or LinkLimits(ping_s=1e9)  # the watch's sleep would be counted among the probe's
        self.link: Link = link_to(
            coordinator.url, self.node, self.clock, rng=random.Random(1), limits=limits, transport="auto"
        )

    @property
    def transport(self) -> str:
        return self.link.describe()["transport"]

    def beats_by(self, path: str) -> int:
        return sum(1 for _, asked in self.coordinator.requests if asked == path)

    async def let_probe(self, seconds: float = FIRST_PROBE_S * 1.3) -> None:
        """Let the next try of the stream come due, and be made."""
        asked = self.beats_by("/v1/link")
        deadline = self.clock.monotonic() + seconds
        while self.clock.monotonic() < deadline:
            await self.clock.somebody_sleeps()
            self.clock.advance(1.0)
            await asyncio.sleep(0)
        await until(lambda: self.beats_by("/v1/link") > asked and self.link.describe()["state"] != "opening")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with FakeCoordinator() as coordinator:
        made = Stage(coordinator)
        yield made
        await made.link.close()


async def test_the_stream_is_preferred(stage: Stage) -> None:
    await stage.link.call(BEAT)
    assert (stage.transport, stage.link.describe()["why"]) == ("websocket", "preferred")
    assert stage.beats_by("/v1/beat") == 0


async def test_where_the_stream_is_refused_the_same_call_is_polled(stage: Stage) -> None:
    stage.coordinator.stream_status = 404
    assert isinstance(await stage.link.call(BEAT), wire.BeatAck)
    assert stage.transport == "poll"
    assert "404" in stage.link.describe()["why"]


async def test_while_polling_the_stream_is_not_tried_by_calls(stage: Stage) -> None:
    stage.coordinator.stream_status = 502
    for _ in range(5):
        await stage.link.call(BEAT)
    assert (stage.beats_by("/v1/link"), stage.beats_by("/v1/beat")) == (1, 5)


async def test_the_node_returns_to_a_stream_that_is_well_again(stage: Stage) -> None:
    stage.coordinator.stream_status = 404
    await stage.link.call(BEAT)
    stage.coordinator.stream_status = 101
    await stage.let_probe()
    await until(lambda: stage.transport == "websocket")
    await stage.link.call(BEAT)
    assert stage.beats_by("/v1/beat") == 1
    assert stage.link.describe()["why"] == "well again"


async def test_a_try_that_fails_leaves_the_node_polling(stage: Stage) -> None:
    stage.coordinator.stream_status = 404
    await stage.link.call(BEAT)
    await stage.let_probe()
    assert isinstance(await stage.link.call(BEAT), wire.BeatAck)
    assert stage.transport == "poll"


async def test_a_stream_that_breaks_at_once_makes_the_node_poll_and_nothing_is_sent_twice(stage: Stage) -> None:
    stage.coordinator.mind.next_time(wire.Result, HangUp())
    result = wire.Result(deliveries=(wire.Delivery(signed=Signed(payload="{}", key="", signature="")),))
    with pytest.raises(LinkError) as caught:
        await stage.link.call(result)
    assert caught.value.fault is LinkFault.UNREACHABLE
    assert stage.transport == "poll"
    assert [frame.msg for frame in stage.coordinator.mind.frames] == [result]


async def test_a_stream_that_answers_nothing_is_dropped_for_the_poll() -> None:
    async with FakeCoordinator() as coordinator:
        stage = Stage(coordinator, LinkLimits(reply_s=0.1, ping_s=1e9))
        coordinator.mind.next_time(wire.Beat, Silence())
        with pytest.raises(LinkError):
            await stage.link.call(BEAT)
        await until(lambda: coordinator.streams == 0)
        await stage.link.call(PULL)
        assert stage.transport == "poll"
        await stage.link.close()


async def test_a_steady_stream_that_breaks_is_opened_again_by_the_next_call(stage: Stage) -> None:
    await stage.link.call(BEAT)
    stage.clock.advance(STEADY_S)
    stage.coordinator.mind.next_time(wire.Beat, HangUp())
    with pytest.raises(LinkError):
        await stage.link.call(BEAT)
    await stage.link.call(BEAT)
    assert stage.transport == "websocket"
    assert stage.beats_by("/v1/link") == 2


async def test_many_calls_that_one_loss_breaks_are_one_strike(stage: Stage) -> None:
    stage.coordinator.mind.next_time(wire.Pull, *[Silence()] * 8)
    await stage.link.call(BEAT)
    stage.clock.advance(STEADY_S)
    pulls = [asyncio.create_task(stage.link.call(PULL)) for _ in range(8)]
    await stage.coordinator.mind.seen(9)
    stage.coordinator.hang_up()
    assert all(isinstance(error, LinkError) for error in await asyncio.gather(*pulls, return_exceptions=True))
    await stage.link.call(BEAT)
    assert stage.transport == "websocket"


async def test_a_coordinator_that_was_gone_altogether_gets_its_stream_back_soon(stage: Stage) -> None:
    await stage.coordinator.stop()
    with pytest.raises(LinkError):
        await stage.link.call(BEAT)
    for _ in range(4):  # several tries fail meanwhile, which makes them rarer
        await stage.clock.somebody_sleeps()
        stage.clock.advance(60)
        await asyncio.sleep(0)
    with pytest.raises(LinkError):
        await stage.link.call(BEAT)
    await stage.coordinator.start()
    await stage.link.call(BEAT)
    await stage.clock.somebody_sleeps()
    stage.clock.advance(FIRST_PROBE_S)
    await until(lambda: stage.transport == "websocket")


async def test_a_refusal_is_no_reason_to_change_the_transport(stage: Stage) -> None:
    stage.coordinator.mind.next_time(
        wire.Hello, wire.Refusal(code=wire.RefusalCode.BUSY, message="later", retry_after_s=5)
    )
    with pytest.raises(LinkError) as caught:
        await stage.link.call(BEAT)
    assert (caught.value.fault, caught.value.retry_after_s) == (LinkFault.REFUSED, 5)
    assert stage.beats_by("/v1/nonce") == 0


async def test_pushes_come_through_whatever_happened_before(stage: Stage) -> None:
    pushes = stage.link.pushes()
    cancel = wire.Cancel(key=KEY, reason=Reason.LEASE_REVOKED)
    await stage.link.call(BEAT)
    await stage.coordinator.push(cancel)
    assert await within(anext(pushes)) == cancel
    stage.clock.advance(STEADY_S)
    stage.coordinator.hang_up()
    await until(lambda: stage.link.describe()["state"] == "idle")
    await stage.link.call(BEAT)
    await stage.coordinator.push(cancel)
    assert await within(anext(pushes)) == cancel


async def test_chunks_and_blobs_go_the_way_that_the_calls_go(stage: Stage) -> None:
    stage.coordinator.stream_status = 404
    await stage.link.call(BEAT)
    await stage.link.post(wire.Chunk(key=KEY, index=0, text="a", tokens=1))
    await stage.link.put_blob("0" * 64, b"blob")
    await stage.coordinator.mind.seen(2)
    assert stage.beats_by("/v1/chunk") == 1


async def test_closing_stops_the_tries_and_wakes_the_callers(stage: Stage) -> None:
    stage.coordinator.stream_status = 404
    stage.coordinator.mind.next_time(wire.Pull, Silence())
    pull = asyncio.create_task(stage.link.call(PULL))
    await stage.coordinator.mind.seen(1)
    await stage.link.close()
    with pytest.raises(LinkError) as caught:
        await within(pull)
    assert caught.value.fault is LinkFault.CLOSED
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("link-")] == []


@pytest.mark.parametrize(("transport", "kind"), [("auto", BatonLink), ("websocket", WebSocketLink), ("poll", HttpLink)])
def test_the_configuration_chooses_the_transport(transport: str, kind: type) -> None:
    assert type(link_to("http://localhost:1", TestNode(), ManualClock(), transport=transport)) is kind
