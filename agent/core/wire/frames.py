"""Frames: what a message travels in, which reply belongs to it, and how its bytes are written and read."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from agent.core.attest.messages import (
    MatrixAgain,
    MatrixCommitted,
    MatrixDrawn,
    MatrixGo,
    MatrixJudged,
    MatrixOpened,
    MatrixReady,
    MatrixReread,
)
from agent.core.direction import Down, Up
from agent.core.model import Count, Value
from agent.core.wire.down import Ack, BeatAck, DownMessage, Offers, Receipt, StartAck, Welcome
from agent.core.wire.limits import MAX_MESSAGE_BYTES
from agent.core.wire.up import Beat, Bye, Decline, Hello, Opening, Pull, Result, Start, UpMessage

T = TypeVar("T")


class UpFrame(Value):
    """One message of the node; `seq` starts at 1 with the first message after `hello` (hello itself is 0)."""

    seq: Count
    msg: UpMessage


class DownFrame(Value):
    """One message of the coordinator; `re` is None on a push."""

    msg: DownMessage
    re: Count | None = None


_encoder = msgspec.json.Encoder()
_up = msgspec.json.Decoder(UpFrame)
_down = msgspec.json.Decoder(DownFrame)

REPLY_TO: Final[dict[type[Up], type[Down]]] = {
    Hello: Welcome,
    Beat: BeatAck,
    Pull: Offers,
    Start: StartAck,
    Decline: Ack,
    Result: Receipt,
    Opening: Ack,
    Bye: Ack,
    MatrixReady: MatrixGo,
    MatrixCommitted: MatrixAgain,
    MatrixReread: MatrixDrawn,
    MatrixOpened: MatrixJudged,
}
"""The one reply to each message, besides a Refusal. A Chunk gets none; over HTTP an Ack stands for it."""


def tag_of(message: type[Up | Down] | Up | Down) -> str:
    """The `type` of a message on the wire, which is also its HTTP route: `beat`, `pull`."""
    return str(message.__struct_config__.tag)


def encode(value: msgspec.Struct) -> bytes:
    """JSON bytes of a frame or a signed payload."""
    return _encoder.encode(value)


def decode_up(raw: bytes | str) -> UpFrame:
    """Parse a node's frame. Raises msgspec.DecodeError (ValidationError is one) and nothing else."""
    return read(_up, raw)


def decode_down(raw: bytes | str) -> DownFrame:
    """Parse a coordinator's frame. Raises msgspec.DecodeError (ValidationError is one) and nothing else."""
    return read(_down, raw)


def read(decoder: msgspec.json.Decoder[T], raw: bytes | str) -> T:
    """Decode what a stranger sent. Raises msgspec.DecodeError alone, whatever the bytes are.

    Of two equal keys the last one counts. The size is checked first: nothing is parsed of a larger text.
    """
    if len(raw) > MAX_MESSAGE_BYTES:
        raise msgspec.DecodeError(f"{len(raw)} bytes, more than {MAX_MESSAGE_BYTES}")
    try:
        return decoder.decode(raw)
    except RecursionError as error:  # msgspec lets it pass on deep nesting
        raise msgspec.DecodeError("nested too deeply") from error
    except UnicodeError as error:  # and this one on bytes that are not UTF-8
        raise msgspec.DecodeError("not UTF-8") from error
