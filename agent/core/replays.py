"""Asking an engine what it would have said: requests and replies of a replay. Pure.

llama-server: its `/completion` with a grammar of token literals forces any ids, and the log-probabilities that it tells
are those before the grammar. vLLM: `prompt_logprobs` of its completions tells them for the prompt itself.
Sources: llama.cpp `tools/server/README.md`, `grammars/README.md`; vLLM "OpenAI-Compatible Server".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Annotated

import msgspec

from agent.core.checks.claims import Position
from agent.core.engine_replies import decoded
from agent.core.engine_stream import garbage
from agent.core.engines import canonical_json
from agent.core.model import ChatInput, CompletionInput, Message

_Id = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
_OVERRULE = 1000.0
"""A bias that no logit withstands."""
_VLLM_OVERRULE = 100.0
"""The most that vLLM takes."""


class _Listed(msgspec.Struct, gc=False):
    id: _Id
    logprob: float


class _Shown(msgspec.Struct, gc=False):
    id: _Id
    top_logprobs: list[_Listed]


class _Completion(msgspec.Struct):
    completion_probabilities: list[_Shown] = []
    stop_type: str = ""
    tokens_predicted: int = 0


class _Text(msgspec.Struct):
    content: str


# --------------------------------------------------------------------------- llama-server


def forced_request(prefix: Sequence[int], run: Sequence[int], top: int, *, one_more: bool) -> bytes:
    """Body for `/completion` that generates exactly `run` after `prefix`, and then, with `one_more`, the end of text:
    so the candidates of the position behind the run are told, too, whatever stands there.
    """
    grammar = " ".join(f"<[{token}]>" for token in run) or '""'
    return canonical_json(
        {
            "prompt": prefix,
            "n_predict": len(run) + one_more,
            "temperature": 0,
            "n_probs": top,
            "cache_prompt": False,
            "grammar": f"root ::= {grammar}",
        }
    )


def forced_positions(body: bytes, run: Sequence[int]) -> tuple[Position, ...]:
    """One position for each of `run`, and one more where it was asked. Raises EngineError(ENGINE_GARBAGE)."""
    shown = decoded(_Completion, body).completion_probabilities
    if [one.id for one in shown[: len(run)]] != list(run):
        raise garbage(f"it was made to say {len(run)} tokens and said others")
    return tuple(_position(one.id, [(other.id, other.logprob) for other in one.top_logprobs]) for one in shown)


def ends_request(token: int) -> bytes:
    """Body for `/completion` that makes the engine say `token` twice: one that ends the text is said once."""
    return canonical_json(
        {
            "prompt": [token],
            "n_predict": 2,
            "temperature": 0,
            "cache_prompt": False,
            "logit_bias": [[token, _OVERRULE]],
        }
    )


def ends(body: bytes) -> bool:
    """Whether the token of `ends_request` ended the text. Raises EngineError(ENGINE_GARBAGE)."""
    return decoded(_Completion, body).stop_type == "eos"


def detokenize_request(ids: Sequence[int]) -> bytes:
    """Body for `/detokenize`."""
    return canonical_json({"tokens": ids})


def detokenized(body: bytes) -> str:
    """Text of `/detokenize`; tokens that are no whole characters read U+FFFD. Raises EngineError(ENGINE_GARBAGE)."""
    return decoded(_Text, body).content


def literal_request(text: str, *, special: bool) -> bytes:
    """Body for `/tokenize`: `text` alone, with or without reading the names of special tokens in it."""
    return canonical_json({"content": text, "add_special": False, "parse_special": special})


# --------------------------------------------------------------------------- vLLM


class _Ranked(msgspec.Struct, gc=False):
    logprob: float
    rank: int | None = None


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[str, _Ranked] | None] | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]


class _Prompt(msgspec.Struct):
    prompt: str


def scored_request(model: str, ids: Sequence[int], top: int) -> bytes:
    """Body for vLLM's `/v1/completions`: `top` candidates at every position of the prompt `ids`."""
    return canonical_json({"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": top})


def scored_positions(body: bytes, ids: Sequence[int], start: int, top: int) -> tuple[Position, ...]:
    """The positions of `ids` from `start` (at least 1: the first token has nothing before it) to the end.

    A token outside the `top` likeliest is told all the same, and left out here. Raises EngineError(ENGINE_GARBAGE).
    """
    told = decoded(_Answer, body).choices[0].prompt_logprobs or []
    if len(told) != len(ids):
        raise garbage(f"it tells log-probabilities of {len(told)} tokens where {len(ids)} were asked")
    return tuple(
        _position(token, _likeliest(entry or {}, top)) for token, entry in zip(ids[start:], told[start:], strict=True)
    )


def vllm_ends_request(model: str, token: int) -> bytes:
    """As `ends_request`."""
    bias = {str(token): _VLLM_OVERRULE}
    return canonical_json({"model": model, "prompt": [token], "max_tokens": 2, "temperature": 0, "logit_bias": bias})


def vllm_ends(body: bytes) -> bool:
    """Whether the token of `vllm_ends_request` ended the text. Raises EngineError(ENGINE_GARBAGE)."""
    return decoded(_Answer, body).choices[0].finish_reason == "stop"


def vllm_tokenize_request(model: str, given: ChatInput | CompletionInput) -> bytes:
    """Body for vLLM's `/tokenize`, as its completion endpoints tokenize."""
    fields: dict[str, str | bool | tuple[Message, ...]] = {"model": model}
    if isinstance(given, ChatInput):
        return canonical_json(fields | {"messages": given.messages, "add_generation_prompt": True})
    return canonical_json(fields | {"prompt": given.prompt, "add_special_tokens": True})


def vllm_detokenize_request(model: str, ids: Sequence[int]) -> bytes:
    """Body for vLLM's `/detokenize`."""
    return canonical_json({"model": model, "tokens": ids})


def vllm_detokenized(body: bytes) -> str:
    """Text of vLLM's `/detokenize`. Raises EngineError(ENGINE_GARBAGE)."""
    return decoded(_Prompt, body).prompt


def _likeliest(entry: dict[str, _Ranked], top: int) -> Iterable[tuple[int, float]]:
    listed = sorted(entry.items(), key=lambda item: -item[1].logprob)
    for text, ranked in listed[:top]:
        if not (text.isascii() and text.isdigit()):
            raise garbage("a candidate has no token id")
        yield int(text), ranked.logprob


def _position(token: int, listed: Iterable[tuple[int, float]]) -> Position:
    pairs = tuple(listed)
    if not pairs or not all(isfinite(logprob) for _, logprob in pairs):
        raise garbage("it tells no log-probabilities")
    return Position(token, tuple(number for number, _ in pairs), tuple(logprob for _, logprob in pairs))
