"""A verdict under seal: the one text leaf of a transcript, whose root goes out long before the leaf does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from agent.core.errors import ProofError
from agent.core.model import Value
from agent.core.payloads import VerdictBody
from agent.core.proof.leaves import read_leaf
from agent.core.proof.transcript import LEAF_TOKENS, LeafKind, Transcript, TranscriptBuilder
from agent.core.proof.verdict import VERDICT_LEAVES

MAX_VERDICT_BYTES = 1 << 20
_BODY = msgspec.json.Decoder(VerdictBody)


class SealedOutput(Value, forbid_unknown_fields=True):
    """The output of a check, as JSON: all that the coordinator learns before the verdict is revealed."""

    sealed: str
    """Root of the transcript whose leaf the verdict is."""


class _Piece(NamedTuple):
    text: str
    token_id: int | None = None
    top_ids: Sequence[int] = ()
    top_logprobs: Sequence[float] = ()


def leaf_of(body: VerdictBody) -> TranscriptBuilder:
    """A transcript, still open, with the verdict in one leaf. Raises ProofError("verdict") when it is too large."""
    text = msgspec.json.encode(body).decode()
    if len(text.encode()) > MAX_VERDICT_BYTES:
        raise ProofError("verdict", f"a verdict has at most {MAX_VERDICT_BYTES} bytes")
    size = -(-len(text) // LEAF_TOKENS)
    builder = TranscriptBuilder(0)
    for at in range(0, len(text), size):
        builder.add(_Piece(text[at : at + size]))
    return builder


def sealed(body: VerdictBody) -> Transcript:
    """What is committed to."""
    return leaf_of(body).finish()


def output_of(root: str) -> str:
    """The output that goes with a sealed verdict."""
    return msgspec.json.encode(SealedOutput(sealed=root)).decode()


def read_verdict(leaves: Sequence[bytes]) -> VerdictBody:
    """The verdict in leaves whose root was checked. Raises ProofError("verdict")."""
    try:
        read = [read_leaf(leaf) for leaf in leaves]
    except ProofError as error:
        raise ProofError("verdict", error.message) from error
    if len(read) != VERDICT_LEAVES or read[0].kind is not LeafKind.TEXT:
        raise ProofError("verdict", "it is not one leaf of text")
    raw = b"".join(read[0].texts)
    if len(raw) > MAX_VERDICT_BYTES:
        raise ProofError("verdict", f"a verdict has at most {MAX_VERDICT_BYTES} bytes")
    try:
        return _BODY.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ProofError("verdict", f"it is no verdict: {error}") from error
