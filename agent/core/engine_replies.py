"""Short JSON replies of engines: embeddings, model lists, versions, errors. Pure."""

from __future__ import annotations

from itertools import chain
from math import isfinite
from typing import Annotated, Any, TypeVar

import msgspec

from agent.core.engine_stream import garbage
from agent.core.engines import Profile
from agent.core.model import Usage
from agent.core.text import line

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


class _Row(msgspec.Struct):
    index: _Count
    embedding: tuple[float, ...]


class _EmbeddingUsage(msgspec.Struct):
    prompt_tokens: _Count


class _Embeddings(msgspec.Struct):
    data: list[_Row]
    usage: _EmbeddingUsage


class _Served(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Served]


class _Prompt(msgspec.Struct):
    prompt: str


class _Tokens(msgspec.Struct):
    tokens: tuple[Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)], ...]


class _Slot(msgspec.Struct):
    n_ctx: _Count = 0


class _Props(msgspec.Struct):
    default_generation_settings: _Slot = msgspec.field(default_factory=_Slot)


class _Error(msgspec.Struct):
    message: str = ""


class _ErrorBody(msgspec.Struct):
    error: _Error | str = ""
    message: str = ""


_T = TypeVar("_T")


def decoded(kind: type[_T], body: bytes) -> _T:
    """`body` as `kind`. Raises EngineError(ENGINE_GARBAGE)."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise garbage(line(str(fault), 200)) from fault


def embeddings(body: bytes, texts: int) -> tuple[tuple[tuple[float, ...], ...], Usage]:
    """Rows in the order of the `texts` that were sent. Raises EngineError(ENGINE_GARBAGE)."""
    answer = decoded(_Embeddings, body)
    rows = {row.index: row.embedding for row in answer.data}
    if len(answer.data) != texts or set(rows) != set(range(texts)):
        raise garbage(f"it has {len(answer.data)} rows for {texts} texts")
    if len({len(row) for row in rows.values()}) > 1 or not all(rows.values()):
        raise garbage("its rows are empty or differ in width")
    if not all(map(isfinite, chain.from_iterable(rows.values()))):
        raise garbage("an embedding is not a finite number")
    return tuple(rows[index] for index in range(texts)), Usage(prompt_tokens=answer.usage.prompt_tokens)


def served_models(body: bytes) -> tuple[str, ...]:
    """Names on `/v1/models`. Raises EngineError(ENGINE_GARBAGE)."""
    return tuple(line(model.id, 200) for model in decoded(_ModelList, body).data)


def prompt_text(body: bytes) -> str:
    """The prompt that `/apply-template` made. Raises EngineError(ENGINE_GARBAGE)."""
    return decoded(_Prompt, body).prompt


def token_ids(body: bytes) -> tuple[int, ...]:
    """Ids of `/tokenize`. Raises EngineError(ENGINE_GARBAGE)."""
    return decoded(_Tokens, body).tokens


def slot_context(body: bytes) -> int:
    """Context of one slot in tokens, from llama-server's `/props`; 0 when it does not tell."""
    return decoded(_Props, body).default_generation_settings.n_ctx


def version(profile: Profile, body: bytes) -> str:
    """The engine's version, or nothing: it is for people and for the determinism class, never for a decision."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return next((line(str(fields[key]), 60) for key in profile.version_keys if key in fields), "")


def error_words(body: bytes) -> str:
    """What an error reply says, in plain words, whatever its form."""
    try:
        answer = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return line(body, 200)
    error = answer.error if isinstance(answer.error, str) else answer.error.message
    return line(error or answer.message or body, 300)
