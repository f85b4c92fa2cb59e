"""Requests to engines: the same task always makes the same bytes, and nothing that was asked is silently dropped."""

from __future__ import annotations

import hashlib
import json

import pytest

from agent.core.engines import PROFILES, Profile, build_request, prompt_digest, unsupported
from agent.core.errors import EngineError
from agent.core.model import (
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    Message,
    Reason,
    Sampling,
    TaskInput,
    TaskKind,
    TaskSpec,
)

CHAT = ChatInput(messages=(Message(role="user", content="grüß dich"),))
PLAIN = Sampling(seed=7, top_k=0)


def task(given: TaskInput = CHAT, sampling: Sampling = PLAIN, max_tokens: int = 16) -> TaskSpec:
    return TaskSpec(task_id="t", model_digest="", input=given, sampling=sampling, max_tokens=max_tokens)


def test_the_bytes_of_a_chat_request_to_llama_server_never_change() -> None:
    sampling = Sampling(seed=7, temperature_micros=700_000, min_p_micros=50_000, stop=("\n",))
    request = build_request(PROFILES["llama-server"], "tiny", task(sampling=sampling), 40)
    assert request.path == "/v1/chat/completions"
    assert (
        request.body
        == (
            '{"cache_prompt":false,"logprobs":true,"max_tokens":16,"messages":[{"content":"grüß dich","role":"user"}],'
            '"min_keep":2,"min_p":0.05,"model":"tiny","samplers":["top_k","top_p","min_p","temperature"],"seed":7,'
            '"stop":["\\n"],"stream":true,"stream_options":{"include_usage":true},"temperature":0.7,'
            '"timings_per_token":true,"top_k":40,"top_logprobs":40,"top_p":0.95}'
        ).encode()
    )
    assert request.sha256 == hashlib.sha256(request.body).hexdigest()


def test_a_chat_whose_prompt_tokens_are_known_is_sent_as_them() -> None:
    sampling = Sampling(seed=7, temperature_micros=700_000, min_p_micros=50_000, stop=("\n",))
    request = build_request(PROFILES["llama-server"], "tiny", task(sampling=sampling), 40, (1, 300, 7))
    assert request.path == "/v1/completions"
    assert request.body == (
        b'{"cache_prompt":false,"logprobs":40,"max_tokens":16,"min_keep":2,"min_p":0.05,"model":"tiny",'
        b'"prompt":[1,300,7],"samplers":["top_k","top_p","min_p","temperature"],"seed":7,'
        b'"stop":["\\n"],"stream":true,"stream_options":{"include_usage":true},"temperature":0.7,'
        b'"timings_per_token":true,"top_k":40,"top_p":0.95}'
    )


@pytest.mark.parametrize(
    ("profile", "given", "asked"),
    [("llama-server", CHAT, 40), ("vllm", CHAT, 20), ("openai", CompletionInput(prompt="x"), 5), ("tei", None, 0)],
)
def test_a_request_tells_how_many_candidates_it_really_asks_for(
    profile: str, given: TaskInput | None, asked: int
) -> None:
    assert build_request(PROFILES[profile], "m", task(given or EmbeddingInput(texts=("x",))), 40).n_probs == asked


@pytest.mark.parametrize("micros", [0, 1, 100_000, 333_333, 700_000, 999_999, 1_000_001, 2_000_000])
def test_micro_units_arrive_as_the_decimal_that_was_meant(micros: int) -> None:
    request = build_request(
        PROFILES["openai"], "m", task(sampling=Sampling(seed=7, top_k=0, temperature_micros=micros)), 0
    )
    assert round(json.loads(request.body)["temperature"] * 1_000_000) == micros


@pytest.mark.parametrize(
    ("profile", "given", "expected"),
    [
        ("llama-server", CompletionInput(prompt="x"), {"logprobs": 40}),
        ("vllm", CHAT, {"logprobs": True, "top_logprobs": 20, "return_tokens_as_token_ids": True}),
        ("vllm", CompletionInput(prompt="x"), {"logprobs": 20}),
        ("openai", CompletionInput(prompt="x"), {"logprobs": 5}),
        ("ollama", CHAT, {"top_logprobs": 20}),
        ("ollama", CompletionInput(prompt="x"), {"logprobs": None}),
    ],
)
def test_each_engine_is_asked_for_log_probabilities_in_its_own_way(
    profile: str, given: TaskInput, expected: dict[str, object]
) -> None:
    fields = json.loads(build_request(PROFILES[profile], "m", task(given), 40).body)
    assert {key: fields.get(key) for key in expected} == expected


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())
@pytest.mark.parametrize("given", [CHAT, CompletionInput(prompt="x"), EmbeddingInput(texts=("x",))])
def test_every_kind_is_either_built_or_refused_with_a_reason(profile: Profile, given: TaskInput) -> None:
    asked = task(given)
    if asked.kind in profile.kinds:
        assert build_request(profile, "m", asked, 40).body
        return
    with pytest.raises(EngineError) as refused:
        build_request(profile, "m", asked, 40)
    assert refused.value.reason is Reason.UNSUPPORTED_KIND


def test_a_sampler_that_the_engine_would_ignore_is_refused() -> None:
    asked = task(sampling=Sampling(seed=7, top_k=40, min_p_micros=1))
    assert unsupported(PROFILES["ollama"], asked) == "ollama does not take top_k and min_p over this API"
    assert unsupported(PROFILES["vllm"], asked) == ""
    with pytest.raises(EngineError) as refused:
        build_request(PROFILES["ollama"], "m", asked, 0)
    assert refused.value.reason is Reason.UNSUPPORTED_SAMPLING


def test_an_embedding_request_carries_nothing_of_the_sampler() -> None:
    request = build_request(PROFILES["tei"], "m", task(EmbeddingInput(texts=("a", "b"))), 40)
    assert request.body == b'{"encoding_format":"float","input":["a","b"],"model":"m"}'


def test_a_profile_that_generates_names_where_it_is_ready() -> None:
    assert all(profile.ready_path.startswith("/") for profile in PROFILES.values())
    assert PROFILES["tei"].kinds == (TaskKind.EMBEDDING,)


def test_the_prompt_digest_is_over_little_endian_u32() -> None:
    assert prompt_digest((1, 258)) == hashlib.sha256(bytes([1, 0, 0, 0, 2, 1, 0, 0])).hexdigest()
