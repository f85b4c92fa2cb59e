"""The wire against strangers: whatever the bytes, decoding gives a frame or one kind of error."""

from __future__ import annotations

import json
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.core import wire
from agent.core.model import LeaseKey, Reason, Signed

SIGNED = Signed(payload="{}", key="aa" * 32, signature="bb" * 64)
KEY = LeaseKey(task_id="t", attempt=1, fence=2)
ACK = b'{"msg":{"type":"ack"}}'
UP_FRAMES = [
    wire.UpFrame(seq=1, msg=message)
    for message in (
        wire.Beat(held=(KEY,), load=(wire.PoolLoad(pool="cpu", busy=1, free=0),)),
        wire.Pull(credits=(wire.Credit(pool="cpu", model_digest="sha256:00", count=1),)),
        wire.Start(keys=(KEY,)),
        wire.Decline(key=KEY, reason=Reason.DRAINING),
        wire.Chunk(key=KEY, index=0, text="größe 🦙", tokens=1),
        wire.Result(deliveries=(wire.Delivery(signed=SIGNED, output="x"),)),
        wire.Bye(),
    )
]
DOWN_FRAMES = [
    wire.DownFrame(re=1, msg=message)
    for message in (
        wire.Nonce(nonce="00" * 32),
        wire.Welcome(session="s", session_ttl_s=1, proto=1, server_time=0.5, beat_s=10, lease_s=40, wanted=(KEY,)),
        wire.BeatAck(lease_ms=1, beat_s=1, lost=(KEY,), directives=(wire.Directive(kind="drain"),)),
        wire.Offers(offers=(SIGNED,)),
        wire.StartAck(leases=(wire.Confirmed(key=KEY, ok=True),)),
        wire.Ack(),
        wire.Receipt(answers=(wire.Answer(signed=SIGNED),)),
        wire.Cancel(key=KEY, reason=Reason.LEASE_REVOKED),
        wire.Directed(directive=wire.Directive(kind="pause")),
        wire.Refusal(code=wire.RefusalCode.BUSY, message="later", retry_after_s=1),
    )
]
Decode = typing.Callable[[bytes], Any]
BOTH = pytest.mark.parametrize("decode", [wire.decode_up, wire.decode_down])
fuzz = settings(max_examples=300)


def only_decode_errors(decode: Decode, raw: bytes | str) -> None:
    try:
        frame = decode(raw)  # type: ignore[arg-type]
    except msgspec.DecodeError:
        return
    assert isinstance(frame, wire.UpFrame | wire.DownFrame)
    wire.encode(frame)


@pytest.mark.parametrize("frame", UP_FRAMES, ids=lambda frame: type(frame.msg).__name__)
def test_a_frame_of_the_node_survives_the_wire(frame: wire.UpFrame) -> None:
    assert wire.decode_up(wire.encode(frame)) == frame


@pytest.mark.parametrize("frame", DOWN_FRAMES, ids=lambda frame: type(frame.msg).__name__)
def test_a_frame_of_the_coordinator_survives_the_wire(frame: wire.DownFrame) -> None:
    assert wire.decode_down(wire.encode(frame).decode()) == frame


@BOTH
@fuzz
@given(raw=st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_decode_errors(decode: Decode, raw: bytes) -> None:
    only_decode_errors(decode, raw)


@BOTH
@fuzz
@given(raw=st.text(max_size=200))
@example(raw="\ud800")
def test_random_text_raises_nothing_but_decode_errors(decode: Decode, raw: str) -> None:
    only_decode_errors(decode, raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@fuzz
@given(frame=st.sampled_from([*UP_FRAMES, *DOWN_FRAMES]), spoiled=st.data(), value=JSON)
def test_a_frame_with_one_value_replaced_raises_nothing_but_decode_errors(
    frame: wire.UpFrame | wire.DownFrame, spoiled: st.DataObject, value: object
) -> None:
    tree = json.loads(wire.encode(frame))
    spot = tree
    while isinstance(spot, dict) and spot:
        key = spoiled.draw(st.sampled_from(sorted(spot)))
        if not isinstance(spot[key], dict) or spoiled.draw(st.booleans()):
            spot[key] = value
            break
        spot = spot[key]
    decode: Decode = wire.decode_up if isinstance(frame, wire.UpFrame) else wire.decode_down
    only_decode_errors(decode, json.dumps(tree).encode())


@fuzz
@given(
    frame=st.sampled_from([*UP_FRAMES, *DOWN_FRAMES]),
    at=st.integers(0, 10_000),
    cut=st.integers(0, 20),
    put=st.binary(max_size=20),
)
def test_a_frame_with_bytes_replaced_raises_nothing_but_decode_errors(
    frame: wire.UpFrame | wire.DownFrame, at: int, cut: int, put: bytes
) -> None:
    raw = wire.encode(frame)
    at %= len(raw)
    decode: Decode = wire.decode_up if isinstance(frame, wire.UpFrame) else wire.decode_down
    only_decode_errors(decode, raw[:at] + put + raw[at + cut :])


@BOTH
@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'{"msg":{"type":"ack","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}}",
        b'{"x":' + b"[" * 400_000 + b"]" * 400_000 + b',"seq":1,"re":1,"msg":{"type":"ack"}}',
    ],
    ids=["arrays", "objects", "an ignored field within", "an ignored field before"],
)
def test_deep_nesting_is_an_error_like_any_other(decode: Decode, raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(raw)


@pytest.mark.parametrize("number", ["-1", "9007199254740992", "9" * 400, "9" * 5000, "1e400", "1.5", "NaN", '"1"'])
def test_a_number_out_of_bounds_is_refused(number: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.decode_down(f'{{"re":{number},"msg":{{"type":"ack"}}}}')
    with pytest.raises(msgspec.DecodeError):
        wire.decode_down(f'{{"msg":{{"type":"beatack","lease_ms":{number},"beat_s":1}}}}')


@pytest.mark.parametrize("seconds", ["-1", "1e9", "1e999", "NaN", "Infinity"])
def test_a_duration_out_of_bounds_is_refused(seconds: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.decode_up(f'{{"seq":1,"msg":{{"type":"pull","credits":[],"wait_s":{seconds}}}}}')


def test_a_chunk_tells_a_leaf_hash_only_when_a_leaf_has_closed() -> None:
    chunk = wire.Chunk(key=KEY, index=3, text=" word", tokens=1)
    assert b"leaf" not in wire.encode(chunk)
    assert b"leaf" in wire.encode(msgspec.structs.replace(chunk, leaf="0" * 64))


def test_the_size_is_checked_before_anything_is_parsed() -> None:
    fits = ACK[:-1] + b" " * (wire.MAX_MESSAGE_BYTES - len(ACK)) + b"}"
    assert wire.decode_down(fits) == wire.DownFrame(msg=wire.Ack())
    with pytest.raises(msgspec.DecodeError, match="1048577 bytes"):
        wire.decode_down(b"\x00" * (wire.MAX_MESSAGE_BYTES + 1))


def test_of_two_equal_keys_the_last_counts_except_for_the_tag() -> None:
    assert wire.decode_down(b'{"re":1,"re":2,"msg":{"type":"ack"}}').re == 2
    with pytest.raises(msgspec.DecodeError):
        wire.decode_down(b'{"msg":{"type":"ack","type":"nonce","nonce":"00"}}')


def test_unknown_fields_are_ignored_in_messages_and_refused_in_what_is_signed() -> None:
    assert wire.decode_down(b'{"msg":{"type":"ack","new":{}},"also":[]}').msg == wire.Ack()
    body = msgspec.to_builtins(
        wire.ReceiptBody(
            receipt_id="r",
            node_id="n",
            task_id="t",
            attempt=1,
            fence=1,
            idem_key="i",
            status=wire.ReceiptStatus.ACCEPTED,
            result_sha256="00",
            received_at=1,
        )
    )
    msgspec.convert(body, wire.ReceiptBody)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body | {"new": 1}, wire.ReceiptBody)


@pytest.mark.parametrize("tag", ["", "Ack", "acks", "hello", None, 1])
def test_an_unknown_tag_is_refused(tag: object) -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.decode_down(json.dumps({"msg": {"type": tag}}))


def test_every_message_but_a_chunk_has_its_one_reply() -> None:
    assert set(wire.REPLY_TO) == set(typing.get_args(wire.UpMessage)) - {wire.Chunk}
    assert set(wire.REPLY_TO.values()) <= set(typing.get_args(wire.DownMessage))


def test_the_largest_inline_output_fits_into_a_frame_however_it_is_escaped() -> None:
    worst = wire.Delivery(
        signed=Signed(payload="x" * 8192, key="a" * 64, signature="b" * 128),
        output="\x01" * wire.MAX_INLINE_OUTPUT_BYTES,
    )
    message = wire.Result(deliveries=(worst,))
    assert len(wire.encode(wire.UpFrame(seq=wire.MAX_MESSAGE_BYTES, msg=message))) <= wire.MAX_MESSAGE_BYTES
