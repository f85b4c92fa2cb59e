"""What only a stream can do well or badly: liveness, pushes, order, and how it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.core.model import Reason
from agent.edges.clock import SystemClock
from agent.edges.link import mailbox
from agent.edges.link.limits import LinkLimits
from agent.edges.link.ws import WebSocketLink
from tests.edges.link.conftest import HASTY_PULLS
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.mind import KEY, Raw, Silence, TestNode
from tests.patience import PATIENCE_S, until, within

BEAT = wire.Beat()
PULL = wire.Pull(credits=())
CANCEL = wire.Cancel(key=KEY, reason=Reason.LEASE_REVOKED)


@pytest.fixture
async def server() -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator() as made:
        yield made


@pytest.fixture
async def link(server: FakeCoordinator) -> AsyncIterator[WebSocketLink]:
    made = linked(server)
    yield made
    await made.close()


def linked(server: FakeCoordinator, limits: LinkLimits | None = None) -> WebSocketLink:
    node = TestNode()
    server.mind.enlist(node)
    return WebSocketLink(server.url, node, SystemClock(), limits=limits or LinkLimits())


async def fault(link: WebSocketLink, message: wire.UpMessage = BEAT) -> LinkError:
    with pytest.raises(LinkError) as caught:
        await within(link.call(message))
    return caught.value


async def idle(link: WebSocketLink) -> None:
    await until(lambda: link.describe()["state"] == "idle")


async def test_a_peer_that_shows_no_sign_of_life_is_given_up(server: FakeCoordinator) -> None:
    server.deaf_to_pings = True
    server.mind.next_time(wire.Pull, Silence())
    link = linked(server, LinkLimits(ping_s=0.03, pong_s=0.1))
    error = await fault(link, PULL)
    assert error.fault is LinkFault.UNREACHABLE
    assert "sign of life" in error.message
    await link.close()


async def test_a_quiet_peer_that_answers_pings_is_kept(server: FakeCoordinator) -> None:
    link = linked(server, LinkLimits(ping_s=0.03, pong_s=PATIENCE_S))
    await link.call(BEAT)
    await until(lambda: server.pings >= 4)  # each waits for the answer to the one before
    await link.call(BEAT)
    assert len(server.mind.hellos) == 1
    await link.close()


async def test_numbers_rise_strictly_on_the_line(server: FakeCoordinator, link: WebSocketLink) -> None:
    await asyncio.gather(*(link.call(BEAT) for _ in range(100)))
    assert [frame.seq for frame in server.mind.frames] == list(range(1, 101))


async def test_an_orderly_goodbye_of_the_peer_is_unreachable_and_reconnects(
    server: FakeCoordinator, link: WebSocketLink
) -> None:
    server.mind.next_time(wire.Pull, Silence())
    pull = asyncio.create_task(link.call(PULL))
    await server.mind.seen(1)
    await server.say_goodbye()
    with pytest.raises(LinkError) as caught:
        await within(pull)
    assert caught.value.fault is LinkFault.UNREACHABLE
    assert isinstance(await link.call(BEAT), wire.BeatAck)


async def test_a_reply_that_nobody_waits_for_is_dropped(server: FakeCoordinator) -> None:
    link = linked(server, HASTY_PULLS)
    server.mind.next_time(wire.Pull, Silence())
    await fault(link, PULL)
    late = wire.encode(wire.DownFrame(re=1, msg=wire.Offers()))
    await server.push(Raw(late))
    await server.push(Raw(late))
    assert isinstance(await link.call(BEAT), wire.BeatAck)
    assert len(server.mind.hellos) == 1
    await link.close()


async def test_pushes_go_on_after_a_reconnect(server: FakeCoordinator, link: WebSocketLink) -> None:
    pushes = link.pushes()
    for _ in range(2):
        await link.call(BEAT)
        await server.push(CANCEL)
        assert await within(anext(pushes)) == CANCEL
        server.hang_up()
        await idle(link)


async def test_a_flood_of_unread_pushes_ends_the_stream(server: FakeCoordinator, link: WebSocketLink) -> None:
    await link.call(BEAT)
    for _ in range(mailbox.CAPACITY + 1):
        await server.push(CANCEL)
    await idle(link)
    assert isinstance(await link.call(BEAT), wire.BeatAck)


@pytest.mark.parametrize(
    "pushed",
    [wire.DownFrame(msg=wire.Ack()), wire.DownFrame(msg=wire.Nonce(nonce="00" * 32))],
    ids=["a reply to nothing", "a second nonce"],
)
async def test_a_push_that_is_none_is_broken(
    server: FakeCoordinator, link: WebSocketLink, pushed: wire.DownFrame
) -> None:
    server.mind.next_time(wire.Pull, Silence())
    pull = asyncio.create_task(fault(link, PULL))
    await server.mind.seen(1)
    await server.push(Raw(wire.encode(pushed)))
    assert (await pull).fault is LinkFault.BROKEN


async def test_a_refusal_of_the_whole_stream_reaches_every_waiter(server: FakeCoordinator, link: WebSocketLink) -> None:
    server.mind.next_time(wire.Pull, Silence(), Silence())
    pulls = [asyncio.create_task(fault(link, PULL)) for _ in range(2)]
    await server.mind.seen(2)
    await server.push(wire.Refusal(code=wire.RefusalCode.BUSY, message="moving", retry_after_s=2))
    for error in await asyncio.gather(*pulls):
        assert (error.fault, error.code, error.retry_after_s) == (LinkFault.REFUSED, wire.RefusalCode.BUSY, 2)


async def test_a_pull_that_waits_while_the_session_expires_goes_on_in_the_next_one(
    server: FakeCoordinator, link: WebSocketLink
) -> None:
    server.mind.next_time(wire.Pull, Silence())
    pull = asyncio.create_task(link.call(PULL))
    await server.mind.seen(1)
    server.mind.expire_sessions()
    await link.call(BEAT)
    assert isinstance(await within(pull), wire.Offers)
    assert len(server.mind.hellos) == 2


@pytest.mark.parametrize("status", [200, 301, 400, 401, 404, 426, 502, 503])
async def test_a_peer_without_a_stream_is_broken(server: FakeCoordinator, link: WebSocketLink, status: int) -> None:
    server.stream_status = status
    error = await fault(link)
    assert error.fault is LinkFault.BROKEN
    assert str(status) in error.message


async def test_a_stream_without_our_subprotocol_is_broken(server: FakeCoordinator, link: WebSocketLink) -> None:
    server.subprotocols = ("chat",)
    assert wire.SUBPROTOCOL in (await fault(link)).message


async def test_a_coordinator_that_is_not_there_is_unreachable(server: FakeCoordinator, link: WebSocketLink) -> None:
    await server.stop()
    assert (await fault(link)).fault is LinkFault.UNREACHABLE


async def test_a_peer_that_accepts_and_says_nothing_is_given_up() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        link = WebSocketLink(f"http://127.0.0.1:{port}", TestNode(), SystemClock(), limits=LinkLimits(open_s=0.1))
        assert (await fault(link)).fault is LinkFault.UNREACHABLE
        await link.close()


async def test_closing_a_stream_closes_its_socket(server: FakeCoordinator, link: WebSocketLink) -> None:
    await link.call(BEAT)
    assert server.streams == 1
    await link.close()
    await until(lambda: server.streams == 0)


async def test_a_failed_greeting_leaves_no_socket_behind(server: FakeCoordinator, link: WebSocketLink) -> None:
    server.mind.nodes.clear()
    await fault(link)
    await until(lambda: server.streams == 0)
