"""What only plain requests can meet: proxies with opinions, redirects, compression, lost sessions."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import pytest

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.core.wire import RefusalCode
from agent.edges.link.http import HttpLink
from agent.edges.link.limits import LinkLimits
from tests.fakes.clock import ManualClock
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.mind import KEY, Raw, TestNode

BEAT = wire.Beat()
ACK = wire.encode(wire.DownFrame(re=1, msg=wire.BeatAck(lease_ms=1, beat_s=1)))


@pytest.fixture
async def server() -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator() as made:
        yield made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def link(server: FakeCoordinator, clock: ManualClock) -> AsyncIterator[HttpLink]:
    node = TestNode()
    server.mind.enlist(node)
    made = HttpLink(server.url, node, clock, limits=LinkLimits())
    yield made
    await made.close()


async def fault(link: HttpLink, message: wire.UpMessage = BEAT) -> LinkError:
    with pytest.raises(LinkError) as caught:
        await link.call(message)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code"),
    [(413, RefusalCode.TOO_LARGE), (429, RefusalCode.BUSY), (500, RefusalCode.INTERNAL), (502, RefusalCode.BUSY)],
)
async def test_a_proxy_s_bare_status_is_understood(
    server: FakeCoordinator, link: HttpLink, status: int, code: RefusalCode
) -> None:
    server.mind.next_time(wire.Beat, Raw(b"<h1>Sorry</h1>", status=status, headers={"Retry-After": "9"}))
    error = await fault(link)
    assert (error.fault, error.code, error.retry_after_s) == (LinkFault.REFUSED, code, 9)


@pytest.mark.parametrize("status", [204, 301, 400, 401, 403, 404, 407])
async def test_a_bare_status_that_only_the_coordinator_may_give_is_broken(
    server: FakeCoordinator, link: HttpLink, status: int
) -> None:
    server.mind.next_time(wire.Beat, Raw(b"", status=status))
    assert (await fault(link)).fault is LinkFault.BROKEN


async def test_a_redirect_does_not_lead_the_token_away(server: FakeCoordinator, link: HttpLink) -> None:
    away = Raw(b"", status=307, headers={"Location": f"{server.url}/v1/elsewhere"})
    server.mind.next_time(wire.Beat, away)
    assert (await fault(link)).fault is LinkFault.BROKEN
    assert ("POST", "/v1/elsewhere") not in server.requests


async def test_the_refusal_s_own_delay_wins_over_the_header(server: FakeCoordinator, link: HttpLink) -> None:
    refusal = wire.DownFrame(re=1, msg=wire.Refusal(code=RefusalCode.BUSY, message="", retry_after_s=2.5))
    server.mind.next_time(wire.Beat, Raw(wire.encode(refusal), status=503, headers={"Retry-After": "60"}))
    assert (await fault(link)).retry_after_s == 2.5


async def test_a_bomb_is_not_unpacked(server: FakeCoordinator, link: HttpLink) -> None:
    bomb = gzip.compress(ACK[:-1] + b" " * (32 << 20) + b"}")
    server.mind.next_time(wire.Beat, Raw(bomb, headers={"Content-Encoding": "gzip"}))
    assert (await fault(link)).fault is LinkFault.BROKEN


async def test_a_compressed_answer_that_nobody_asked_for_is_broken(server: FakeCoordinator, link: HttpLink) -> None:
    server.mind.next_time(wire.Beat, Raw(gzip.compress(ACK), headers={"Content-Encoding": "gzip"}))
    assert (await fault(link)).fault is LinkFault.BROKEN


async def test_an_answer_to_another_message_is_broken(server: FakeCoordinator, link: HttpLink) -> None:
    server.mind.next_time(wire.Beat, Raw(ACK.replace(b'"re":1', b'"re":2')))
    assert (await fault(link)).fault is LinkFault.BROKEN


async def test_a_good_answer_under_an_error_status_is_broken(server: FakeCoordinator, link: HttpLink) -> None:
    server.mind.next_time(wire.Beat, Raw(ACK, status=404))
    assert (await fault(link)).fault is LinkFault.BROKEN


async def test_a_session_is_renewed_before_it_expires(
    server: FakeCoordinator, link: HttpLink, clock: ManualClock
) -> None:
    await link.call(BEAT)
    clock.advance(server.mind.session_ttl_s * 0.89)
    await link.call(BEAT)
    assert len(server.mind.hellos) == 1
    clock.advance(server.mind.session_ttl_s * 0.02)
    await link.call(BEAT)
    assert len(server.mind.hellos) == 2


async def test_a_chunk_that_fails_costs_later_chunks_nothing(server: FakeCoordinator, link: HttpLink) -> None:
    await link.call(BEAT)
    server.mind.next_time(wire.Chunk, wire.Refusal(code=RefusalCode.BUSY, message="later"))
    for index in range(2):
        await link.post(wire.Chunk(key=KEY, index=index, text="x", tokens=1))
    assert len(server.mind.frames) == 3


async def test_a_blob_over_the_limit_is_never_sent(server: FakeCoordinator, link: HttpLink) -> None:
    with pytest.raises(LinkError) as caught:
        await link.put_blob("0" * 64, bytes(wire.MAX_BLOB_BYTES + 1))
    assert caught.value.code is RefusalCode.TOO_LARGE
    assert all(method != "PUT" for method, _ in server.requests)


async def test_a_blob_s_name_cannot_leave_its_folder(link: HttpLink) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        await link.put_blob("../tasks", b"")


async def test_a_bad_line_may_take_its_time_for_a_large_blob() -> None:
    limits = LinkLimits()
    assert limits.blob_limit_s(wire.MAX_BLOB_BYTES) > wire.MAX_BLOB_BYTES / limits.blob_bytes_per_s
