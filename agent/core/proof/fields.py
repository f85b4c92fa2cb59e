"""What the kinds of header have in common: fields in an order that is the format, some of them fixed by the offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.core.errors import ProofError
from agent.core.model import Value
from agent.core.payloads import OfferBody
from agent.core.proof.canonical import Codec, malformed

MAX_HEADER_BYTES = 256 << 10

Fields = tuple[tuple[str, Codec[Any]], ...]
"""Name and form of each."""


def encode_fields(header: Value, fields: Fields) -> bytes:
    """Canonical bytes. Raises ProofError("encoding")."""
    raw = b"".join(codec.write(getattr(header, name)) for name, codec in fields)
    check_size(raw)
    return raw


def check_size(raw: bytes) -> None:
    """Raises ProofError("encoding") for more than MAX_HEADER_BYTES."""
    if len(raw) > MAX_HEADER_BYTES:
        raise malformed(f"a header of {len(raw)} bytes is over {MAX_HEADER_BYTES}")


def asked_of_all(offer: OfferBody) -> dict[str, Any]:
    """The fields that an offer fixes in every kind of header."""
    return {
        "task_id": offer.task.task_id,
        "attempt": offer.attempt,
        "fence": offer.fence,
        "nonce": offer.nonce,
        "deadline_ms": offer.deadline_ms,
        "task_kind": offer.task.kind,
    }


def check_asked(header: Value, asked: Mapping[str, Any]) -> None:
    """Whether the header says what was asked. Raises ProofError("header_offer") naming the fields."""
    differing = [name for name, wanted in asked.items() if getattr(header, name) != wanted]
    if differing:
        raise ProofError("header_offer", f"the committed {', '.join(differing)} is not what the offer asked for")
