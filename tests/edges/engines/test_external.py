"""Engines that others run, in the dialects of vLLM, Ollama, TEI, SGLang and llama-server, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.core.engines import PROFILES
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
from agent.edges.clock import SystemClock
from agent.edges.engines.external import ExternalPool, ExternalSettings, ExternalTempo
from agent.ports import EngineOutput, Finished, Piece, Vectors
from tests.edges.engines.hostile import DONE, Engine, answers, says, usage
from tests.patience import PATIENCE_S

CHAT = ChatInput(messages=(Message(role="user", content="hello"),))
MODELS = answers(200, {"data": [{"id": "org/model-7b"}]})


def task(given: TaskInput, *, top_k: int = 0) -> TaskSpec:
    return TaskSpec(task_id="t", model_digest="", input=given, sampling=Sampling(seed=1, top_k=top_k), max_tokens=4)


def event(choice: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


def vllm(engine: Engine) -> None:
    """As vLLM with `return_tokens_as_token_ids`: ids as text, the chosen token first, `/health` without a body."""
    top = [{"token": "token_id:9", "logprob": -2.0}, {"token": "token_id:4", "logprob": -0.25}]
    shown = {"content": [{"token": "token_id:9", "logprob": -2.0, "bytes": [72], "top_logprobs": top}]}
    chat = [
        event({"delta": {"role": "assistant", "content": ""}}),
        event({"delta": {"content": "H"}, "logprobs": shown, "finish_reason": "stop", "stop_reason": None}),
        usage(2, 1),
        DONE,
    ]
    lists = {"tokens": ["token_id:9"], "token_logprobs": [-2.0], "top_logprobs": [{"token_id:9": -2.0}]}
    completion = [event({"text": "H", "logprobs": lists, "finish_reason": "length"}), usage(2, 1), DONE]
    engine.routes |= {
        "/health": answers(200, b""),
        "/version": answers(200, {"version": "0.18.2"}),
        "/v1/models": MODELS,
        "/v1/chat/completions": says(*chat),
        "/v1/completions": says(*completion),
    }


def ollama(engine: Engine) -> None:
    chat = [event({"delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}), usage(2, 1), DONE]
    engine.routes |= {
        "/api/version": answers(200, {"version": "0.12.11"}),
        "/v1/models": answers(200, {"object": "list", "data": [{"id": "model-7b"}, {"id": "another"}]}),
        "/v1/chat/completions": says(*chat),
    }


def tei(engine: Engine) -> None:
    rows = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]
    engine.routes |= {
        "/health": answers(200, b""),
        "/info": answers(200, {"model_id": "org/embed", "version": "1.8.0"}),
        "/v1/embeddings": answers(200, {"data": rows, "usage": {"prompt_tokens": 3, "total_tokens": 3}}),
    }


@contextlib.asynccontextmanager
async def serving(
    engine: Engine, profile: str, **changes: Any
) -> AsyncIterator[tuple[ExternalPool, asyncio.Queue[str]]]:
    """A running pool; the queue gets `ready` or the detail at each change."""
    fields = {
        "name": "far",
        "url": f"unix:{engine.socket}",
        "model": "model-7b",
        "model_digest": "sha256:" + "0" * 64,
        "profile": PROFILES[profile],
    } | changes
    tempo = ExternalTempo(check_every_s=0.02, misses=2, retry_cap_s=0.02)
    pool = ExternalPool(ExternalSettings(**fields), clock=SystemClock(), top_logprobs=2, tempo=tempo, rand=lambda: 0.5)
    told: asyncio.Queue[str] = asyncio.Queue()
    running = asyncio.create_task(pool.run(lambda: told.put_nowait("ready" if pool.facts.ready else pool.facts.detail)))
    try:
        yield pool, told
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(told: asyncio.Queue[str], words: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while words not in (heard := await told.get()):
            pass
    return heard


async def outputs(pool: ExternalPool, asked: TaskSpec) -> list[EngineOutput]:
    async with asyncio.timeout(PATIENCE_S):
        return [output async for output in pool.generate(asked)]


async def test_vllm_tells_token_ids_and_takes_every_sampler(engine: Engine) -> None:
    vllm(engine)
    async with serving(engine, "vllm") as (pool, told):
        await until(told, "ready")
        assert pool.facts.engine == "vllm 0.18.2"
        assert pool.facts.determinism == "U"
        piece, finished = await outputs(pool, task(CHAT, top_k=40))
        assert piece == Piece("H", 9, -2.0, (4, 9), (-0.25, -2.0))
        assert isinstance(finished, Finished)
        assert finished.prompt_sha256 == ""
        assert engine.seen[-1][1]["model"] == "org/model-7b"  # the only one that is served
        assert engine.seen[-1][1]["top_k"] == 40
        piece, _ = await outputs(pool, task(CompletionInput(prompt="x")))
        assert piece == Piece("H", 9, -2.0, (9,), (-2.0,))


async def test_vllm_repeats_what_others_claim_and_ollama_cannot(engine: Engine) -> None:
    vllm(engine)
    async with serving(engine, "vllm", validates=True) as (pool, told):
        await until(told, "ready")
        assert pool.facts.kinds == (TaskKind.CHAT, TaskKind.COMPLETION, TaskKind.VERIFY)
        shown = {"prompt_logprobs": [None, {"9": {"logprob": -0.5, "rank": 1}, "4": {"logprob": -1.0, "rank": 2}}]}
        engine.routes["/v1/completions"] = answers(200, {"choices": [{"index": 0, "text": "x", **shown}]})
        async with pool.replayer() as replayer:
            [position] = await replayer.replay((1,), (9,), 2)
        assert (position.token, position.ids, position.logprobs) == (9, (9, 4), (-0.5, -1.0))
        engine.routes["/v1/completions"] = answers(500, {"error": {"message": "out of memory"}})
        with pytest.raises(EngineError) as failed:
            async with pool.replayer() as replayer:
                await replayer.replay((1,), (9,), 2)
        assert failed.value.reason is Reason.ENGINE_UNAVAILABLE
    ollama(engine)
    async with serving(engine, "ollama") as (pool, told):
        await until(told, "ready")
        with pytest.raises(EngineError) as unable:
            async with pool.replayer():
                pass
        assert unable.value.reason is Reason.UNSUPPORTED_KIND


async def test_ollama_is_asked_by_name_and_never_for_what_it_ignores(engine: Engine) -> None:
    ollama(engine)
    async with serving(engine, "ollama") as (pool, told):
        await until(told, "ready")
        assert pool.facts.engine == "ollama 0.12.11"
        piece, _ = await outputs(pool, task(CHAT))
        assert piece == Piece("Hi")
        with pytest.raises(EngineError) as refused:
            await pool.check(task(CHAT, top_k=40))
        assert refused.value.reason is Reason.UNSUPPORTED_SAMPLING


async def test_tei_embeds_and_does_nothing_else(engine: Engine) -> None:
    tei(engine)
    async with serving(engine, "tei", kinds=(TaskKind.EMBEDDING, TaskKind.CHAT)) as (pool, told):
        await until(told, "ready")
        assert pool.facts.kinds == (TaskKind.EMBEDDING,)
        vectors, _ = await outputs(pool, task(EmbeddingInput(texts=("x",))))
        assert vectors == Vectors(rows=((0.25, -0.5),))


async def test_an_engine_without_our_model_is_not_ready_and_says_what_it_has(engine: Engine) -> None:
    ollama(engine)
    async with serving(engine, "ollama", model="missing") as (pool, told):
        detail = await until(told, "serves")
        assert detail.startswith("the engine serves model-7b, another, not missing")
        with pytest.raises(EngineError):
            await outputs(pool, task(CHAT))


async def test_health_alone_is_not_enough_the_canary_must_sing(engine: Engine) -> None:
    vllm(engine)
    engine.routes["/v1/chat/completions"] = answers(500, {"error": {"message": "CUDA error"}})
    async with serving(engine, "vllm") as (pool, told):
        assert "CUDA error" in await until(told, "500")
        assert not pool.facts.ready
        vllm(engine)
        await until(told, "ready")


async def test_an_engine_that_goes_away_is_noticed_and_comes_back(engine: Engine) -> None:
    vllm(engine)
    async with serving(engine, "vllm") as (_, told):
        await until(told, "ready")
        engine.routes["/health"] = answers(503, b"loading")
        await until(told, "no engine is ready at unix:")
        vllm(engine)
        await until(told, "ready")


async def test_the_api_key_goes_along_and_a_missing_key_file_is_told(engine: Engine, tmp_path: Path) -> None:
    vllm(engine)
    key = tmp_path / "engine.key"
    async with serving(engine, "vllm", api_key_file=key) as (_, told):
        await until(told, "API key file")
        key.write_text("s3cret\n")
        await until(told, "ready")
    assert engine.headers[-1]["Authorization"] == "Bearer s3cret"
