"""What every link makes of a peer that misbehaves, breaks off or is silent, and of its own end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.core.model import Reason
from agent.core.wire import RefusalCode
from tests.edges.link.asking import BEAT, CHUNK, PULL, fault_of
from tests.edges.link.conftest import HASTY, HASTY_PULLS, Peer
from tests.fakes.mind import KEY, HangUp, Raw, Silence
from tests.patience import until, within


def padded(reply: bytes, size: int) -> bytes:
    """The same JSON with white space up to `size` bytes."""
    return reply[:-1] + b" " * (size - len(reply)) + b"}"


ACK = wire.encode(wire.DownFrame(re=1, msg=wire.BeatAck(lease_ms=1, beat_s=1)))


async def test_unknown_fields_are_ignored(peer: Peer) -> None:
    peer.mind.next_time(wire.Beat, Raw(ACK[:-1] + b',"since":"1.4","deep":{"a":[1,{}]}}'))
    assert await peer.link().call(BEAT) == wire.BeatAck(lease_ms=1, beat_s=1)


async def test_a_reply_as_large_as_the_limit_is_read(peer: Peer) -> None:
    peer.mind.next_time(wire.Beat, Raw(padded(ACK, wire.MAX_MESSAGE_BYTES)))
    assert isinstance(await peer.link().call(BEAT), wire.BeatAck)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>It works!</html>",
        b"",
        b"\xff\xfe",
        ACK.replace(b"beatack", b"wat"),
        ACK.replace(b'"beat_s":1', b'"beat_s":"soon"'),
        ACK.replace(b'"lease_ms":1', b'"lease_ms":-1'),
        ACK.replace(b'"lease_ms":1', b'"lease_ms":' + b"9" * 4000),
        b'{"re":1,"msg":' + b"[" * 100_000,
        padded(ACK, wire.MAX_MESSAGE_BYTES + 1),
        wire.encode(wire.DownFrame(re=1, msg=wire.Ack())),
    ],
    ids=[
        "html",
        "empty",
        "not-utf8",
        "unknown-tag",
        "type",
        "negative",
        "huge-int",
        "deep",
        "oversized",
        "other-reply",
    ],
)
async def test_what_is_not_the_protocol_is_broken_and_the_next_call_goes_on(peer: Peer, body: bytes) -> None:
    assert body != ACK
    peer.mind.next_time(wire.Beat, Raw(body))
    link = peer.link()
    assert (await fault_of(link.call(BEAT))).fault is LinkFault.BROKEN
    assert isinstance(await link.call(BEAT), wire.BeatAck)


async def test_a_peer_that_never_answers_is_given_up_in_time_and_the_session_lives(peer: Peer) -> None:
    peer.mind.next_time(wire.Pull, Silence())
    link = peer.link(HASTY_PULLS)
    error = await fault_of(link.call(PULL))
    assert error.fault is LinkFault.UNREACHABLE
    assert isinstance(await link.call(BEAT), wire.BeatAck)
    assert len(peer.mind.hellos) == 1


async def test_a_pull_is_waited_for_longer_than_its_own_wait(peer: Peer) -> None:
    link = peer.link(HASTY)
    await link.call(PULL)
    peer.mind.next_time(wire.Pull, Silence())
    pull = asyncio.create_task(link.call(wire.Pull(credits=PULL.credits, wait_s=30)))
    beat_error = await asyncio.gather(_silent_beat(peer, link), return_exceptions=True)
    assert isinstance(beat_error[0], LinkError)  # the beat's time is over ...
    assert not pull.done()  # ... and the pull's is not
    pull.cancel()


async def _silent_beat(peer: Peer, link: object) -> None:
    peer.mind.next_time(wire.Beat, Silence())
    await link.call(BEAT)  # type: ignore[attr-defined]


async def test_a_connection_lost_in_the_middle_is_unreachable_and_the_next_call_reconnects(peer: Peer) -> None:
    peer.mind.next_time(wire.Beat, HangUp())
    link = peer.link()
    error = await fault_of(link.call(BEAT))
    assert error.fault is LinkFault.UNREACHABLE
    assert isinstance(await link.call(BEAT), wire.BeatAck)


async def test_a_lost_connection_wakes_every_waiter_at_once(peer: Peer) -> None:
    peer.mind.next_time(wire.Pull, *[Silence()] * 10)
    link = peer.link()
    pulls = [asyncio.create_task(link.call(PULL)) for _ in range(10)]
    await peer.mind.seen(10)
    await peer.hang_up()
    errors = await within(asyncio.gather(*pulls, return_exceptions=True))
    assert [error.fault for error in errors if isinstance(error, LinkError)] == [LinkFault.UNREACHABLE] * 10
    assert len({id(error) for error in errors}) == 10


async def test_a_coordinator_that_comes_back_is_greeted_again(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    await peer.hang_up()
    peer.mind.expire_sessions()
    with contextlib.suppress(LinkError):
        await link.call(BEAT)  # may find the old connection dead
    assert isinstance(await link.call(BEAT), wire.BeatAck)
    assert len(peer.mind.hellos) == 2


# --------------------------------------------------------------------------- the end


async def test_closing_wakes_pending_calls_as_closed(peer: Peer) -> None:
    peer.mind.next_time(wire.Pull, *[Silence()] * 3)
    link = peer.link()
    pulls = [asyncio.create_task(link.call(PULL)) for _ in range(3)]
    await peer.mind.seen(3)
    await link.close()
    errors = await within(asyncio.gather(*pulls, return_exceptions=True))
    assert [error.fault for error in errors if isinstance(error, LinkError)] == [LinkFault.CLOSED] * 3


async def test_closing_while_greeting_wakes_the_callers_as_closed(peer: Peer) -> None:
    peer.mind.next_time(wire.Hello, Silence())
    link = peer.link()
    call = asyncio.create_task(link.call(BEAT))
    await until(lambda: peer.mind.hellos)
    await link.close()
    assert (await fault_of(within(call))).fault is LinkFault.CLOSED


async def test_a_closed_link_refuses_calls_and_ignores_chunks(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    await link.close()
    await link.post(CHUNK)
    assert (await fault_of(link.call(BEAT))).fault is LinkFault.CLOSED
    assert (await fault_of(link.put_blob("0" * 64, b""))).fault is LinkFault.CLOSED
    assert link.describe()["state"] == "closed"


async def test_closing_ends_the_pushes(peer: Peer) -> None:
    link = peer.link()
    reader = asyncio.create_task(anext(link.pushes(), None))
    await link.call(BEAT)
    await link.close()
    assert await within(reader) is None


async def test_closing_leaves_no_task_behind(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    await link.post(CHUNK)
    await link.close()
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("link-")]
    assert left == []


async def test_a_link_can_be_closed_twice_and_unused(peer: Peer) -> None:
    link = peer.link()
    await link.close()
    await link.close()


async def test_the_description_tells_state_and_last_fault_and_no_secret(peer: Peer) -> None:
    link = peer.link()
    assert link.describe()["state"] == "idle"
    peer.mind.next_time(wire.Pull, wire.Refusal(code=RefusalCode.FORBIDDEN, message="not in this fleet"))
    await fault_of(link.call(PULL))
    told = link.describe()
    assert told["state"] == "open"
    assert "not in this fleet" in told["last_fault"]
    assert peer.node.welcomes[0].session not in str(told)


async def test_a_fault_is_forgotten_with_its_session(peer: Peer) -> None:
    link = peer.link()
    peer.mind.next_time(wire.Beat, HangUp())
    await fault_of(link.call(BEAT))
    assert link.describe()["last_fault"]
    peer.mind.expire_sessions()
    await link.call(BEAT)
    assert link.describe()["last_fault"] == ""


@pytest.mark.parametrize("peer", ["memory", "websocket"], indirect=True)  # when polling, beats carry the same
async def test_pushes_arrive_in_order(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    cancel = wire.Cancel(key=KEY, reason=Reason.CANCELLED_BY_REQUESTER)
    drain = wire.Directed(directive=wire.Directive(kind="drain"))
    await peer.push(cancel)
    await peer.push(drain)
    pushes = link.pushes()
    assert [await within(anext(pushes)) for _ in range(2)] == [cancel, drain]
