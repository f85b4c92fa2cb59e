"""A result message, opened: signed by its node, and its output measured."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from agent.core.errors import ProofError
from agent.core.model import Blob, Signed, Value
from agent.core.proof.signed import open_signed
from agent.core.wire import MAX_INLINE_OUTPUT_BYTES, Delivery, RefusalCode, ResultBody, Role
from agent.devnet.core.book import Book
from agent.devnet.core.rules import Refused, bad_message

_RESULT = msgspec.json.Decoder(ResultBody)


class Sizes(NamedTuple):
    """Bytes of the blobs that a delivery names; None for one that is not here."""

    blob: int | None = None
    artifact: int | None = None


class Delivered(Value):
    """What a node signed, and what came with it. Whether the two agree is for `judging`."""

    body: ResultBody
    signed: Signed
    sha256: str
    """Of the signed payload."""
    output: str | None
    blob: str | None
    output_sha256: str
    """Of the output that came; empty when none did."""
    output_bytes: int
    artifact: Blob | None = None
    """As it lies here."""


def open_delivery(book: Book, node_id: str, message: Delivery, sizes: Sizes) -> Delivered:
    """Raises Refused for what nobody can be held to: unsigned, unreadable, oversized, or a blob that never came."""
    body, payload = _open(book, node_id, message.signed)
    if message.output is not None and message.blob is not None:
        raise bad_message("a result carries its output inline or as a blob, not both")
    for sha256, size in ((message.blob, sizes.blob), (message.artifact, sizes.artifact)):
        if sha256 is not None and size is None:
            raise Refused(RefusalCode.NOT_FOUND, f"blob {sha256[:64]} is not here: PUT /v1/blobs/<sha256> first")
    text = None if message.output is None else message.output.encode()
    if text is not None and len(text) > MAX_INLINE_OUTPUT_BYTES:
        limit = f"at most {MAX_INLINE_OUTPUT_BYTES} bytes go inline"
        raise Refused(RefusalCode.TOO_LARGE, f"an output of {len(text)} bytes: {limit}; upload it as a blob")
    return Delivered(
        body=body,
        signed=message.signed,
        sha256=hashlib.sha256(payload).hexdigest(),
        output=message.output,
        blob=message.blob,
        output_sha256=message.blob or ("" if text is None else hashlib.sha256(text).hexdigest()),
        artifact=Blob(sha256=message.artifact, bytes=sizes.artifact or 0) if message.artifact else None,
        output_bytes=sizes.blob or (0 if text is None else len(text)),
    )


def _open(book: Book, node_id: str, signed: Signed) -> tuple[ResultBody, bytes]:
    try:
        payload = open_signed(Role.RESULT, signed, book.node(node_id).record.node_key, book.verify)
        return _RESULT.decode(payload), payload
    except ProofError as error:
        raise Refused(RefusalCode.BAD_SIGNATURE, f"the result: {error.message}") from error
    except msgspec.MsgspecError as error:
        raise bad_message(f"the signed result is not a ResultBody: {error}") from error
