"""The transcript's header: everything that was asked, by what it was answered, and how it ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from agent.core.engines import profile_of
from agent.core.errors import ProofError
from agent.core.fingerprint import Pool
from agent.core.model import FinishReason, TaskKind, Usage, Value
from agent.core.proof.canonical import (
    DIGEST,
    I64,
    TEXT,
    U16,
    U64,
    Reader,
    choice,
    malformed,
    optional,
    sequence,
)
from agent.core.proof.fields import Fields, asked_of_all, check_asked, check_size, encode_fields
from agent.core.wire import OfferBody

VERSION = 1
MAX_STOPS, MAX_SAMPLERS = 64, 32
_DIGEST_PREFIX = "sha256:"


class ProofKind(StrEnum):
    """What the leaves can show."""

    TOKENS_F32 = "tokens_f32"
    """Token ids with the most likely candidates and their log-probabilities: can be replayed."""
    TEXT = "text"
    """At least some text came without token ids: shows what was said when, and no more."""
    ROWS = "rows"
    """Rows of embeddings."""
    FILES = "files"
    """What a program left behind: can be compared with another run of it."""


class Header(Value):
    """See docs/proof.md for the bytes. Digests are 64 lower-case hex digits; an optional one is empty when unknown."""

    task_id: str
    attempt: int
    fence: int
    node_key: str
    """The node's Ed25519 public key."""
    nonce: str
    """Chosen by the coordinator."""
    deadline_ms: int
    task_kind: TaskKind
    model_digest: str
    """Without the `sha256:` in front."""
    engine: str
    """Engine and version, as in the node's fingerprint."""
    determinism: str
    """Determinism class id; `U` is unverifiable."""
    request_sha256: str
    """Over the exact request body that the engine got."""
    n_probs: int
    """Candidates per token that were asked for."""
    temperature_micros: int
    top_k: int
    top_p_micros: int
    min_p_micros: int
    seed: int
    max_tokens: int
    finish: FinishReason
    prompt_tokens: int
    completion_tokens: int
    proof_kind: ProofKind
    output_sha256: str
    """Over the output's UTF-8 bytes, as delivered."""
    stop: tuple[str, ...] = ()
    samplers: tuple[str, ...] = ()
    """The chain in order; empty when the engine does not let us choose."""
    min_keep: int = 0
    prompt_sha256: str = ""
    """Over the prompt's token ids (u32 little-endian)."""
    adapter_digest: str = ""
    engine_digest: str = ""
    version: int = VERSION

    @property
    def artifact(self) -> str:
        """None: only a program leaves one."""
        return ""

    def encode(self) -> bytes:
        """Canonical bytes. Raises ProofError("encoding")."""
        return encode_fields(self, _FIELDS)


_FINISH = choice({FinishReason.STOP: 0, FinishReason.LENGTH: 1})
_TASK_KIND = choice({TaskKind.CHAT: 1, TaskKind.COMPLETION: 2, TaskKind.EMBEDDING: 3})
_PROOF_KIND = choice({ProofKind.TOKENS_F32: 1, ProofKind.TEXT: 2, ProofKind.ROWS: 3})

# The order is the format: a change here is a new version.
_FIELDS: Fields = (
    ("version", U16),
    ("task_id", TEXT),
    ("attempt", U64),
    ("fence", U64),
    ("node_key", DIGEST),
    ("nonce", DIGEST),
    ("deadline_ms", U64),
    ("task_kind", _TASK_KIND),
    ("model_digest", DIGEST),
    ("adapter_digest", optional(DIGEST)),
    ("engine", TEXT),
    ("engine_digest", optional(DIGEST)),
    ("determinism", TEXT),
    ("prompt_sha256", optional(DIGEST)),
    ("request_sha256", DIGEST),
    ("samplers", sequence(TEXT, MAX_SAMPLERS)),
    ("min_keep", U64),
    ("n_probs", U64),
    # Signed, because some engines switch a sampler off with -1.
    ("temperature_micros", I64),
    ("top_k", I64),
    ("top_p_micros", I64),
    ("min_p_micros", I64),
    ("seed", U64),
    ("max_tokens", U64),
    ("stop", sequence(TEXT, MAX_STOPS)),
    ("finish", _FINISH),
    ("prompt_tokens", U64),
    ("completion_tokens", U64),
    ("proof_kind", _PROOF_KIND),
    ("output_sha256", DIGEST),
)


def decode_header(raw: bytes) -> Header:
    """Read canonical bytes. Raises ProofError("encoding"); what it returns encodes to the same bytes."""
    check_size(raw)
    reader = Reader(raw)
    values: dict[str, Any] = {}
    for name, codec in _FIELDS:
        values[name] = codec.read(reader)
        if name == "version" and values[name] != VERSION:
            raise malformed(f"header version {values[name]} is unknown; this is version {VERSION}")
    reader.end()
    return Header(**values)


def header_of(
    offer: OfferBody,
    pool: Pool,
    *,
    node_key: str,
    n_probs: int,
    finish: FinishReason,
    usage: Usage,
    request_sha256: str,
    prompt_sha256: str,
    proof_kind: ProofKind,
    output_sha256: str,
) -> Header:
    """The header of one finished attempt: what `offer` asked, answered by `pool`."""
    samplers, min_keep = _chain(pool.engine)
    return Header(
        **_asked(offer),
        node_key=node_key,
        engine=pool.engine,
        engine_digest=pool.engine_digest,
        determinism=pool.determinism,
        prompt_sha256=prompt_sha256,
        request_sha256=request_sha256,
        samplers=samplers,
        min_keep=min_keep,
        n_probs=n_probs,
        finish=finish,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        proof_kind=proof_kind,
        output_sha256=output_sha256,
    )


def check_against_offer(header: Header, offer: OfferBody) -> None:
    """Whether the header says what the offer asked. Raises ProofError("header_offer") naming the fields."""
    check_asked(header, _asked(offer))
    embeds = header.task_kind is TaskKind.EMBEDDING
    if embeds is not (header.proof_kind is ProofKind.ROWS) or (embeds and header.completion_tokens):
        raise ProofError("header_offer", "rows, and nothing else, are what an embedding comes to")
    samplers, min_keep = _chain(header.engine)
    if samplers and (header.samplers, header.min_keep) != (samplers, min_keep):
        raise ProofError("header_offer", f"{header.engine[:64]} draws by another sampler chain than the committed one")
    if samplers and not embeds and not header.completion_tokens:
        # Else a prompt would be paid that nobody read: there is nothing to be repeated.
        raise ProofError(
            "header_offer", f"{header.engine[:64]} counts the token that ends a text, too: none is no answer"
        )


def _chain(engine: str) -> tuple[tuple[str, ...], int]:
    """Sampler chain and min_keep that such an engine is asked for; nothing where it draws in a way of its own.

    Without this a node could commit to a chain that nobody replays.
    """
    profile = profile_of(engine)
    chain = profile.extra if profile else {}
    return tuple(chain.get("samplers", ())), chain.get("min_keep", 0)


def _asked(offer: OfferBody) -> dict[str, Any]:
    """The header fields that the offer fixes."""
    task, sampling = offer.task, offer.task.sampling
    return {
        **asked_of_all(offer),
        "model_digest": task.model_digest.removeprefix(_DIGEST_PREFIX),
        "adapter_digest": "",
        "max_tokens": task.max_tokens,
        **msgspec.structs.asdict(sampling),
    }
