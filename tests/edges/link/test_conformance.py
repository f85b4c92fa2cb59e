"""What every link does, whatever carries it: the handshake, each pair of messages, and refusals."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from agent.core import wire
from agent.core.errors import LinkFault
from agent.core.model import LeaseKey, Reason
from agent.core.wire import RefusalCode
from tests.edges.link.asking import BEAT, CHUNK, PULL, RESULT, fault_of, result
from tests.edges.link.conftest import Peer
from tests.fakes.mind import KEY, SIGNED, Silence, TestNode

# --------------------------------------------------------------------------- handshake


async def test_the_first_call_greets_and_the_next_ones_do_not(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    await link.call(BEAT)
    assert [hello.node_id for hello in peer.mind.hellos] == [peer.node.node_id]
    assert len(peer.node.welcomes) == 1


async def test_calls_that_come_together_share_one_handshake(peer: Peer) -> None:
    link = peer.link()
    await asyncio.gather(*(link.call(BEAT) for _ in range(20)))
    assert len(peer.mind.hellos) == 1


async def test_a_caller_that_gives_up_leaves_the_others_their_session(peer: Peer) -> None:
    link = peer.link()
    impatient = asyncio.create_task(link.call(BEAT))
    patient = asyncio.create_task(link.call(BEAT))
    await asyncio.sleep(0)
    impatient.cancel()
    assert isinstance(await patient, wire.BeatAck)
    assert len(peer.mind.hellos) == 1


async def test_an_unknown_node_is_told_so(peer: Peer) -> None:
    peer.mind.nodes.clear()
    error = await fault_of(peer.link().call(BEAT))
    assert (error.fault, error.code) == (LinkFault.REFUSED, RefusalCode.UNKNOWN_NODE)


async def test_a_node_with_another_key_is_refused(peer: Peer) -> None:
    peer.mind.enlist(TestNode(peer.node.node_id))
    error = await fault_of(peer.link().call(BEAT))
    assert (error.fault, error.code) == (LinkFault.REFUSED, RefusalCode.BAD_SIGNATURE)


async def test_a_refused_hello_is_tried_again_by_the_next_call(peer: Peer) -> None:
    peer.mind.next_time(wire.Hello, wire.Refusal(code=RefusalCode.BUSY, message="later", retry_after_s=3))
    link = peer.link()
    error = await fault_of(link.call(BEAT))
    assert (error.code, error.retry_after_s) == (RefusalCode.BUSY, 3)
    assert isinstance(await link.call(BEAT), wire.BeatAck)


@pytest.mark.parametrize(
    "changes",
    [
        {"session": ""},
        {"session": "a b"},
        {"session": "a\r\nX: y"},
        {"session": "ä"},
        {"proto": 99},
        {"session_ttl_s": 0},
    ],
    ids=["no token", "a blank", "a forged header", "not ASCII", "an unknown version", "a session without a life"],
)
async def test_a_welcome_that_cannot_be_used_is_broken(peer: Peer, changes: dict[str, object]) -> None:
    welcome = wire.Welcome(
        **{"session": "s", "session_ttl_s": 9, "proto": 1, "server_time": 0, "beat_s": 9, "lease_s": 9} | changes
    )  # type: ignore[arg-type]
    peer.mind.next_time(wire.Hello, welcome)
    assert (await fault_of(peer.link().call(BEAT))).fault is LinkFault.BROKEN
    assert not peer.node.welcomes


async def test_the_clock_offset_is_learnt_from_the_welcome(peer: Peer) -> None:
    peer.mind.clock_lead_s = 300
    link = peer.link()
    await link.call(BEAT)
    assert 290 < float(link.describe()["clock_offset_s"]) < 310


# --------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (BEAT, wire.BeatAck(lease_ms=40_000, beat_s=10, renewed=(KEY,))),
        (PULL, wire.Offers(offers=(SIGNED,))),
        (wire.Start(keys=(KEY,)), wire.StartAck(leases=(wire.Confirmed(key=KEY, ok=True, lease_ms=40_000),))),
        (wire.Decline(key=KEY, reason=Reason.DRAINING), wire.Ack()),
        (RESULT, wire.Receipt(answers=(wire.Answer(signed=SIGNED),))),
        (wire.Bye(reason="update"), wire.Ack()),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_each_message_arrives_whole_and_gets_its_reply(
    peer: Peer, message: wire.UpMessage, reply: wire.DownMessage
) -> None:
    peer.mind.offers = (SIGNED,)
    assert await peer.link().call(message) == reply
    assert [frame.msg for frame in peer.mind.frames] == [message]


async def test_text_of_every_script_survives(peer: Peer) -> None:
    words = result('Grüße, 世界 🦙 \u0000 \u2028 \\ " </script>')
    await peer.link().call(words)
    assert peer.mind.frames[0].msg == words


async def test_chunks_arrive_in_order_and_need_no_reply(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    chunks = [wire.Chunk(key=KEY, index=index, text=f"w{index} ", tokens=1) for index in range(30)]
    for chunk in chunks:
        await link.post(chunk)
    await peer.mind.seen(31)
    assert [frame.msg for frame in peer.mind.frames[1:]] == chunks


async def test_a_chunk_is_sent_before_the_result_that_follows_it(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    await link.post(CHUNK)
    await link.call(RESULT)
    assert [frame.msg for frame in peer.mind.frames] == [BEAT, CHUNK, RESULT]


async def test_a_chunk_without_a_session_is_lost_in_silence(peer: Peer) -> None:
    link = peer.link()
    await link.post(CHUNK)
    await link.call(BEAT)
    assert [frame.msg for frame in peer.mind.frames] == [BEAT]


async def test_a_blob_arrives_whole(peer: Peer) -> None:
    body = bytes(range(256)) * 8000  # 2 MB: many pieces on a socket
    name = hashlib.sha256(body).hexdigest()
    await peer.link().put_blob(name, body)
    assert peer.mind.blobs == {name: body}


async def test_parallel_calls_get_their_own_replies(peer: Peer) -> None:
    keys = [LeaseKey(task_id=f"t{number}", attempt=1, fence=number) for number in range(60)]
    link = peer.link()
    replies = await asyncio.gather(*(link.call(wire.Start(keys=(key,))) for key in keys))
    assert [reply.leases[0].key for reply in replies if isinstance(reply, wire.StartAck)] == keys


async def test_a_beat_does_not_wait_for_a_pull(peer: Peer) -> None:
    peer.mind.next_time(wire.Pull, Silence())
    link = peer.link()
    pull = asyncio.create_task(link.call(PULL))
    await peer.mind.seen(1)
    assert isinstance(await link.call(BEAT), wire.BeatAck)
    assert not pull.done()
    pull.cancel()


async def test_every_message_has_a_number_of_its_own(peer: Peer) -> None:
    link = peer.link()
    for _ in range(5):
        await link.call(BEAT)
    await asyncio.gather(*(link.call(BEAT) for _ in range(40)))
    numbers = [frame.seq for frame in peer.mind.frames]
    assert numbers[:5] == [1, 2, 3, 4, 5]
    assert sorted(numbers) == list(range(1, 46))


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("code", [code for code in RefusalCode if code is not RefusalCode.SESSION_EXPIRED])
async def test_a_refusal_keeps_its_code_its_words_and_its_delay(peer: Peer, code: RefusalCode) -> None:
    peer.mind.next_time(wire.Pull, wire.Refusal(code=code, message="not \x1b[31mtoday", retry_after_s=4))
    error = await fault_of(peer.link().call(PULL))
    assert (error.fault, error.code, error.retry_after_s) == (LinkFault.REFUSED, code, 4)
    assert "not today" in error.message


async def test_after_a_refusal_the_session_goes_on(peer: Peer) -> None:
    peer.mind.next_time(wire.Pull, wire.Refusal(code=RefusalCode.FORBIDDEN, message="no"))
    link = peer.link()
    await fault_of(link.call(PULL))
    await link.call(PULL)
    assert len(peer.mind.hellos) == 1


async def test_an_expired_session_is_opened_again_without_a_word(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    peer.mind.expire_sessions()
    assert isinstance(await link.call(BEAT), wire.BeatAck)
    assert len(peer.mind.hellos) == 2
    assert len(peer.node.welcomes) == 2


async def test_parallel_calls_on_an_expired_session_open_one_new_one(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    peer.mind.expire_sessions()
    replies = await asyncio.gather(*(link.call(BEAT) for _ in range(20)))
    assert all(isinstance(reply, wire.BeatAck) for reply in replies)
    assert len(peer.mind.hellos) == 2


async def test_a_blob_on_an_expired_session_is_sent_again(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    peer.mind.expire_sessions()
    await link.put_blob(hashlib.sha256(b"x").hexdigest(), b"x")
    assert list(peer.mind.blobs.values()) == [b"x"]


async def test_a_session_that_expires_at_once_again_is_reported(peer: Peer) -> None:
    expired = wire.Refusal(code=RefusalCode.SESSION_EXPIRED, message="again")
    peer.mind.next_time(wire.Beat, expired, expired)
    error = await fault_of(peer.link().call(BEAT))
    assert (error.fault, error.code) == (LinkFault.REFUSED, RefusalCode.SESSION_EXPIRED)
    assert len(peer.mind.hellos) == 2


async def test_a_replayed_number_is_refused_by_the_coordinator(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    token = peer.node.welcomes[0].session
    reply, re = await peer.mind.take(wire.encode(wire.UpFrame(seq=1, msg=BEAT)), token)
    assert isinstance(reply, wire.Refusal)
    assert (reply.code, re) == (RefusalCode.REPLAYED, 1)


async def test_a_message_over_the_limit_is_never_sent(peer: Peer) -> None:
    link = peer.link()
    await link.call(BEAT)
    error = await fault_of(link.call(result("x" * wire.MAX_MESSAGE_BYTES)))
    assert error.code is RefusalCode.TOO_LARGE
    assert len(peer.mind.frames) == 1


async def test_a_message_as_large_as_the_limit_goes_through(peer: Peer) -> None:
    empty = len(wire.encode(wire.UpFrame(seq=1, msg=result(""))))
    await peer.link().call(result("x" * (wire.MAX_MESSAGE_BYTES - empty)))
    assert len(peer.mind.frames) == 1
