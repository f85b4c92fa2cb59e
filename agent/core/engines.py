"""What the engines behind the OpenAI-compatible API have in common, and how each differs, as data. Pure.

Sources: llama.cpp `tools/server/README.md`; vLLM "OpenAI-Compatible Server" (extra parameters, `--max-logprobs` 20);
SGLang "OpenAI APIs"; Ollama `docs/openai.md`; text-embeddings-inference API; OpenAI API reference.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any

import msgspec

from agent.core.errors import EngineError
from agent.core.model import (
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    ExecInput,
    Reason,
    Sampling,
    TaskKind,
    TaskSpec,
    Value,
    VerifyInput,
)

SAMPLERS = ("top_k", "top_p", "min_p", "temperature")
"""The sampler chain that we ask of engines which let us choose; proof.md replays exactly this order."""
MIN_KEEP = 2
"""Candidates that truncation always leaves, so that the sampler draws once per token, whatever the distribution."""

_MICRO = 1_000_000
_GENERATES = (TaskKind.CHAT, TaskKind.COMPLETION)


class TokenIds(StrEnum):
    """How an engine tells token ids in log-probability entries."""

    FIELD = "field"
    """An `id` beside every `token`."""
    TEXT = "text"
    """`token` reads `token_id:123` (vLLM, on request)."""
    NONE = "none"
    """Not at all: such output cannot be replayed."""


class Profile(Value):
    """One kind of engine. Paths are under its base URL."""

    name: str
    kinds: tuple[TaskKind, ...]
    """What it can do at all; a pool may offer less."""
    ready_path: str
    """Answers 200 once the model is loaded. Not enough to be ready: a canary follows."""
    lists_models: bool = True
    """Whether `/v1/models` lists the served names."""
    version_path: str = ""
    """JSON with the engine's version under one of `version_keys`."""
    version_keys: tuple[str, ...] = ("version",)
    takes: frozenset[str] = frozenset({"seed"})
    """Sampling fields beyond `temperature` and `top_p`."""
    token_ids: TokenIds = TokenIds.NONE
    chat_top_logprobs: int = 0
    """Most alternatives per token that a chat may ask for; 0: no log-probabilities."""
    completion_top_logprobs: int = 0
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    """Sent with every generation."""
    tokenizes: bool = False
    """Has llama-server's `/apply-template` and `/tokenize`."""
    scores_prompts: bool = False
    """Tells the log-probabilities of a prompt's own tokens (`prompt_logprobs`)."""

    @property
    def replays(self) -> bool:
        """Whether it can be made to repeat what another engine said."""
        return self.tokenizes or self.scores_prompts


_LLAMA_SERVER = Profile(
    name="llama-server",
    kinds=(*_GENERATES, TaskKind.EMBEDDING),
    ready_path="/health",
    version_path="/props",
    version_keys=("build_info",),
    takes=frozenset({"seed", "top_k", "min_p"}),
    token_ids=TokenIds.FIELD,
    chat_top_logprobs=1024,
    completion_top_logprobs=1024,
    # A warm prompt cache changes log-probabilities (proof.md). timings_per_token tells of tokens that the engine
    # withholds from the stream: those that end inside a UTF-8 sequence.
    extra={"cache_prompt": False, "samplers": SAMPLERS, "min_keep": MIN_KEEP, "timings_per_token": True},
    tokenizes=True,
)
_VLLM = Profile(
    name="vllm",
    kinds=(*_GENERATES, TaskKind.EMBEDDING),
    ready_path="/health",
    version_path="/version",
    takes=frozenset({"seed", "top_k", "min_p"}),
    token_ids=TokenIds.TEXT,
    chat_top_logprobs=20,
    completion_top_logprobs=20,
    extra={"return_tokens_as_token_ids": True},
    scores_prompts=True,
)
_SGLANG = Profile(
    name="sglang",
    kinds=(*_GENERATES, TaskKind.EMBEDDING),
    ready_path="/health",
    version_path="/get_server_info",
    takes=frozenset({"seed", "top_k", "min_p"}),
    chat_top_logprobs=20,
    completion_top_logprobs=20,
)
_OLLAMA = Profile(
    name="ollama",
    kinds=(*_GENERATES, TaskKind.EMBEDDING),
    ready_path="/api/version",
    version_path="/api/version",
    chat_top_logprobs=20,
)
_TEI = Profile(
    name="tei",
    kinds=(TaskKind.EMBEDDING,),
    ready_path="/health",
    lists_models=False,
    version_path="/info",
)
_OPENAI = Profile(
    name="openai",
    kinds=(*_GENERATES, TaskKind.EMBEDDING),
    ready_path="/v1/models",
    chat_top_logprobs=20,
    completion_top_logprobs=5,
)

PROFILES = {profile.name: profile for profile in (_LLAMA_SERVER, _VLLM, _SGLANG, _OLLAMA, _TEI, _OPENAI)}


def profile_of(engine: str) -> Profile | None:
    """The kind of a pool's engine, which it names as "profile version"; None for one that nobody here knows."""
    return PROFILES.get(engine.partition(" ")[0])


class Request(Value):
    """One HTTP request to an engine, and what its answer may weigh."""

    path: str
    body: bytes
    """Canonical JSON: keys sorted, no spaces."""
    max_line_bytes: int
    max_answer_bytes: int
    n_probs: int = 0
    """Candidates per token that it asks for."""

    @property
    def sha256(self) -> str:
        """Hex digest of the body."""
        return hashlib.sha256(self.body).hexdigest()


_canonical = msgspec.json.Encoder(order="sorted")


def canonical_json(fields: dict[str, Any]) -> bytes:
    """The one way in which request bodies are written."""
    return _canonical.encode(fields)


def unsupported(profile: Profile, task: TaskSpec) -> str:
    """Why an engine of this kind cannot do `task` as asked, in plain words; empty when it can."""
    if task.kind not in profile.kinds:
        return f"{profile.name} does no {task.kind} tasks"
    if task.kind is TaskKind.EMBEDDING:
        return ""
    sampling = task.sampling
    asked = {"top_k": sampling.top_k, "min_p": sampling.min_p_micros, "seed": True}
    refused = [name for name, value in asked.items() if value and name not in profile.takes]
    return f"{profile.name} does not take {' and '.join(refused)} over this API" if refused else ""


def build_request(
    profile: Profile, model: str, task: TaskSpec, top_logprobs: int, prompt_ids: tuple[int, ...] = ()
) -> Request:
    """The request for `task`. `top_logprobs` is cut to what the engine allows; 0 asks for none.

    With `prompt_ids` a chat, too, is sent as the tokens that its template made: then every generated token comes back,
    also those that a chat's answer holds back (stop strings, end of text), and the prompt is known to the token.
    Raises EngineError (UNSUPPORTED_KIND, UNSUPPORTED_SAMPLING).
    """
    if why := unsupported(profile, task):
        reason = Reason.UNSUPPORTED_SAMPLING if task.kind in profile.kinds else Reason.UNSUPPORTED_KIND
        raise EngineError(reason, why)
    match task.input:
        case EmbeddingInput(texts=texts):
            return embedding_request(model, texts)
        case ChatInput() | CompletionInput() if prompt_ids:
            return _completion_request(profile, model, task, top_logprobs, prompt_ids)
        case ChatInput(messages=messages):
            top = min(top_logprobs, profile.chat_top_logprobs)
            fields = _generation(profile, model, task) | {"messages": messages}
            if top:
                fields |= {"logprobs": True, "top_logprobs": top}
            return _streamed("/v1/chat/completions", fields, task.max_tokens, top)
        case CompletionInput(prompt=prompt):
            return _completion_request(profile, model, task, top_logprobs, prompt)
        case ExecInput() | VerifyInput():
            raise EngineError(Reason.UNSUPPORTED_KIND, f"{profile.name} is not what does {task.kind} tasks")


def _completion_request(
    profile: Profile, model: str, task: TaskSpec, top_logprobs: int, prompt: str | tuple[int, ...]
) -> Request:
    top = min(top_logprobs, profile.completion_top_logprobs)
    fields = _generation(profile, model, task) | {"prompt": prompt}
    if top:
        fields["logprobs"] = top
    return _streamed("/v1/completions", fields, task.max_tokens, top)


def _generation(profile: Profile, model: str, task: TaskSpec) -> dict[str, Any]:
    fields = {
        "model": model,
        "max_tokens": task.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(profile, task.sampling),
        **profile.extra,
    }
    if task.sampling.stop:
        fields["stop"] = task.sampling.stop
    return fields


def _sampling(profile: Profile, sampling: Sampling) -> dict[str, Any]:
    """Micro-units become decimals: the nearest double of a number with six decimals prints as that number again."""
    fields: dict[str, Any] = {
        "temperature": sampling.temperature_micros / _MICRO,
        "top_p": sampling.top_p_micros / _MICRO,
    }
    own = {"seed": sampling.seed, "top_k": sampling.top_k, "min_p": sampling.min_p_micros / _MICRO}
    return fields | {name: value for name, value in own.items() if name in profile.takes}


def _streamed(path: str, fields: dict[str, Any], max_tokens: int, top: int) -> Request:
    # One alternative is about 80 bytes of JSON, and up to 1 KiB when its piece is long and written out as bytes; a
    # chunk's frame is about 600 bytes. Engines may put several tokens into one line.
    token_bytes = 4096 + 1024 * (top + 1)
    return Request(
        path=path,
        body=canonical_json(fields),
        max_line_bytes=max(256 << 10, 16 * token_bytes),
        max_answer_bytes=(1 << 20) + max_tokens * token_bytes,
        n_probs=top,
    )


def embedding_request(model: str, texts: tuple[str, ...]) -> Request:
    """A row of numbers for each text."""
    body = canonical_json({"model": model, "input": texts, "encoding_format": "float"})
    # 16,384 dimensions of 24 characters: nothing in use is wider.
    most = (64 << 10) + len(texts) * 16_384 * 24
    return Request(path="/v1/embeddings", body=body, max_line_bytes=most, max_answer_bytes=most)


def template_request(task: ChatInput) -> bytes:
    """Body for llama-server's `/apply-template`."""
    return canonical_json({"messages": task.messages})


def tokenize_request(prompt: str) -> bytes:
    """Body for llama-server's `/tokenize`, the way its completion endpoints tokenize a prompt."""
    return canonical_json({"content": prompt, "add_special": True, "parse_special": True})


def prompt_digest(ids: tuple[int, ...]) -> str:
    """Hex SHA-256 over the ids as u32 little-endian."""
    return hashlib.sha256(b"".join(token.to_bytes(4, "little") for token in ids)).hexdigest()
