"""The commitment: header and root of a transcript, under the signature of the result that carries them."""

from __future__ import annotations

import base64
import binascii
import re

from agent.core.errors import ProofError
from agent.core.model import Commitment
from agent.core.payloads import OfferBody
from agent.core.proof.fields import MAX_HEADER_BYTES
from agent.core.proof.header import Header, check_against_offer, decode_header
from agent.core.proof.program import (
    PROGRAM_VERSION,
    ProgramHeader,
    check_program_against_offer,
    decode_program_header,
)
from agent.core.proof.transcript import Transcript
from agent.core.proof.verdict import (
    VERDICT_VERSION,
    VerdictHeader,
    check_verdict_against_offer,
    decode_verdict_header,
)

_ROOT = re.compile(r"[0-9a-f]{64}\Z")
_MAX_BASE64 = (MAX_HEADER_BYTES + 2) // 3 * 4


AnyHeader = Header | ProgramHeader | VerdictHeader


def commit(header: AnyHeader, transcript: Transcript) -> Commitment:
    """Commit to a transcript. Raises ProofError("encoding") when the header cannot be written."""
    return Commitment(
        header=base64.b64encode(header.encode()).decode(),
        root=transcript.root,
        leaves=len(transcript.leaves),
    )


def read_commitment(commitment: Commitment, node_key: str) -> AnyHeader:
    """The header that `node_key` committed to, once its signature over the result was verified.

    Raises ProofError: "commitment_header" (not canonical), "commitment_key" (another node's), "commitment_root" (not a
    root over leaves).
    """
    raw = header_bytes(commitment)
    try:
        header = _decode(raw)
    except ProofError as error:
        raise ProofError("commitment_header", error.message) from error
    if header.node_key != node_key:
        raise ProofError("commitment_key", f"the header names node key {header.node_key[:16]}…, not {node_key[:16]}…")
    if not _ROOT.match(commitment.root) or commitment.leaves < 1:
        raise ProofError("commitment_root", "the root is not 64 lower-case hex digits over at least one leaf")
    return header


def check_header(header: AnyHeader, offer: OfferBody) -> None:
    """Whether the header says what the offer asked. Raises ProofError("header_offer") naming the fields."""
    match header:
        case ProgramHeader():
            check_program_against_offer(header, offer)
        case VerdictHeader():
            check_verdict_against_offer(header, offer)
        case Header():
            check_against_offer(header, offer)


def _decode(raw: bytes) -> AnyHeader:
    if raw[:2] == PROGRAM_VERSION.to_bytes(2, "little"):
        return decode_program_header(raw)
    if raw[:2] == VERDICT_VERSION.to_bytes(2, "little"):
        return decode_verdict_header(raw)
    return decode_header(raw)


def header_bytes(commitment: Commitment) -> bytes:
    """The header's bytes from their one base64 spelling. Raises ProofError("commitment_header")."""
    text = commitment.header
    if len(text) > _MAX_BASE64:
        raise ProofError("commitment_header", f"the header is over {MAX_HEADER_BYTES} bytes")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofError("commitment_header", "the header is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise ProofError("commitment_header", "the header's base64 is not canonical")
    return raw
