"""The header of a verdict's transcript: which claim was to be checked, and by what. The verdict is its one leaf."""

from __future__ import annotations

from typing import Any

from agent.core.errors import ProofError
from agent.core.fingerprint import Pool
from agent.core.model import TaskKind, Value, VerifyInput
from agent.core.payloads import OfferBody
from agent.core.proof.canonical import (
    DIGEST,
    TEXT,
    U16,
    U64,
    Reader,
    choice,
    malformed,
    optional,
    sequence,
)
from agent.core.proof.fields import Fields, asked_of_all, check_asked, encode_fields
from agent.core.proof.header import ProofKind

VERDICT_VERSION = 3
MOST_LEAVES = 1 << 14
"""Named in one task: half a million tokens."""
VERDICT_LEAVES = 2
"""The verdict, and the end."""


class VerdictHeader(Value):
    """See docs/proof.md for the bytes. Digests are 64 lower-case hex digits."""

    task_id: str
    attempt: int
    fence: int
    node_key: str
    nonce: str
    deadline_ms: int
    task_kind: TaskKind
    model_digest: str
    """Without the `sha256:` in front."""
    evidence: str
    """Digest of what was to be checked."""
    leaves: tuple[int, ...]
    """Which were to be repeated; none: all that are opened."""
    engine: str
    """The validator's."""
    engine_digest: str
    determinism: str
    """Its class."""
    output_sha256: str
    version: int = VERDICT_VERSION

    @property
    def proof_kind(self) -> ProofKind:
        """A verdict is text."""
        return ProofKind.TEXT

    @property
    def artifact(self) -> str:
        """None: only a program leaves one."""
        return ""

    @property
    def prompt_tokens(self) -> int:
        """None: nobody asked for tokens."""
        return 0

    @property
    def completion_tokens(self) -> int:
        """None, likewise."""
        return 0

    def encode(self) -> bytes:
        """Canonical bytes. Raises ProofError("encoding")."""
        return encode_fields(self, _FIELDS)


# The order is the format: a change here is a new version.
_FIELDS: Fields = (
    ("version", U16),
    ("task_id", TEXT),
    ("attempt", U64),
    ("fence", U64),
    ("node_key", DIGEST),
    ("nonce", DIGEST),
    ("deadline_ms", U64),
    ("task_kind", choice({TaskKind.VERIFY: 5})),
    ("model_digest", DIGEST),
    ("evidence", DIGEST),
    ("leaves", sequence(U64, MOST_LEAVES)),
    ("engine", TEXT),
    ("engine_digest", optional(DIGEST)),
    ("determinism", TEXT),
    ("output_sha256", DIGEST),
)


def decode_verdict_header(raw: bytes) -> VerdictHeader:
    """Read canonical bytes. Raises ProofError("encoding"); what it returns encodes to the same bytes."""
    reader = Reader(raw)
    header = VerdictHeader(**{name: codec.read(reader) for name, codec in _FIELDS})
    reader.end()
    if header.version != VERDICT_VERSION:
        raise malformed(f"header version {header.version} is no verdict's")
    return header


def verdict_header(offer: OfferBody, pool: Pool, *, node_key: str, output_sha256: str) -> VerdictHeader:
    """The header of one finished check: what `offer` asked, done by `pool`."""
    return VerdictHeader(
        **_asked(offer),
        node_key=node_key,
        engine=pool.engine,
        engine_digest=pool.engine_digest,
        determinism=pool.determinism,
        output_sha256=output_sha256,
    )


def check_verdict_against_offer(header: VerdictHeader, offer: OfferBody) -> None:
    """Whether the header says what the offer asked. Raises ProofError("header_offer") naming the fields."""
    if not isinstance(offer.task.input, VerifyInput):
        raise ProofError("header_offer", "a verdict's header, but the offer asked for no check")
    check_asked(header, _asked(offer))


def _asked(offer: OfferBody) -> dict[str, Any]:
    """The header fields that the offer fixes."""
    task, asked = offer.task, offer.task.input
    assert isinstance(asked, VerifyInput)
    return {
        **asked_of_all(offer),
        "model_digest": task.model_digest.removeprefix("sha256:"),
        "evidence": asked.evidence.sha256,
        "leaves": asked.leaves,
    }
