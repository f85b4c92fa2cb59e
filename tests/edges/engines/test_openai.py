"""The adapter against an engine that misbehaves in every way we know."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from agent.core.engines import PROFILES
from agent.core.errors import EngineError
from agent.core.model import CompletionInput, EmbeddingInput, FinishReason, Reason, Sampling, TaskInput, TaskSpec
from agent.edges.engines.openai import OpenAIClient, Patience
from agent.ports import EngineOutput, Finished, Piece
from tests.edges.engines import hostile
from tests.edges.engines.hostile import DONE, Engine, Reply, chunk, usage
from tests.patience import PATIENCE_S, within

PATH = "/v1/completions"


@contextlib.asynccontextmanager
async def client(
    socket: Path, *, profile: str = "openai", idle_s: float = 5.0, top: int = 0
) -> AsyncIterator[OpenAIClient]:
    made = OpenAIClient(
        PROFILES[profile],
        base_url="http://engine",
        model="m",
        connector=lambda: aiohttp.UnixConnector(str(socket), force_close=True),
        top_logprobs=top,
        patience=Patience(first_token_s=idle_s, idle_s=idle_s, reply_s=5.0),
    )
    try:
        yield made
    finally:
        await made.close()


def task(given: TaskInput | None = None, max_tokens: int = 8) -> TaskSpec:
    return TaskSpec(
        task_id="t",
        model_digest="",
        input=given or CompletionInput(prompt="x"),
        sampling=Sampling(seed=1, top_k=0),
        max_tokens=max_tokens,
    )


async def outputs(engine: Engine, reply: Reply, *, idle_s: float = 5.0, max_tokens: int = 8) -> list[EngineOutput]:
    engine.routes[PATH] = reply
    # 20 s: a hang of the adapter itself fails too.
    async with asyncio.timeout(PATIENCE_S), client(engine.socket, idle_s=idle_s) as made:
        return [output async for output in made.generate(task(max_tokens=max_tokens))]


async def test_an_honest_answer_arrives_whole(engine: Engine) -> None:
    got = await outputs(engine, hostile.says(chunk("Hel"), chunk("lo", finish="stop"), usage(1, 2), DONE))
    assert got[:2] == [Piece("Hel"), Piece("lo")]
    assert isinstance(got[2], Finished)
    assert (got[2].finish, got[2].usage.completion_tokens) == (FinishReason.STOP, 2)
    assert engine.seen[0][1]["max_tokens"] == 8


BAD_ANSWERS = {
    "no JSON": hostile.says(b"data: {nope\n\n"),
    "invalid UTF-8": hostile.says(b'data: {"choices":[{"text":"\xff\xff"}]}\n\n'),
    "NaN": hostile.says(b'data: {"choices":[{"text":"a","logprobs":{"content":[{"token":"a","logprob":NaN}]}}]}\n\n'),
    "a giant line": hostile.says(b"data: " + b"x" * (1 << 20)),
    "an endless stream of tokens": hostile.says_for_ever(chunk("a")),
    "an endless stream of nothing": hostile.says_for_ever(b": ping\n" * 1000),
    "wrong usage": hostile.says(chunk("a", finish="stop"), usage(1, 999), DONE),
    "an end without a finish": hostile.says(chunk("a"), DONE),
    "an empty stream": hostile.says(),
    "another type": hostile.answers(200, {"ok": True}),
}


@pytest.mark.parametrize("reply", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_garbage_ends_the_task_and_nothing_else(engine: Engine, reply: Reply) -> None:
    with pytest.raises(EngineError) as refused:
        await outputs(engine, reply)
    assert refused.value.reason is Reason.ENGINE_GARBAGE
    assert len(refused.value.message) < 400
    # The same engine, once it behaves, is served by the same code.
    assert await outputs(engine, hostile.says(chunk("ok", finish="stop"), usage(1, 1), DONE))


@pytest.mark.parametrize(
    "reply",
    [
        hostile.says_then_hangs(),
        hostile.says_then_hangs(chunk("a")),
        hostile.says_then_hangs(chunk("a"), comments=True),
    ],
    ids=["from the start", "after a token", "with comments"],
)
async def test_an_engine_that_hangs_is_given_up(engine: Engine, reply: Reply) -> None:
    with pytest.raises(EngineError, match="in time") as refused:
        await outputs(engine, reply, idle_s=0.3)
    assert refused.value.reason is Reason.ENGINE_UNAVAILABLE
    await within(engine.left.wait())


async def test_an_engine_that_dies_in_the_middle_is_unavailable(engine: Engine) -> None:
    with pytest.raises(EngineError) as refused:
        await outputs(engine, hostile.breaks_off_after(chunk("a")))
    assert refused.value.reason is Reason.ENGINE_UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, Reason.ENGINE_REFUSED),
        (401, Reason.ENGINE_REFUSED),
        (404, Reason.ENGINE_REFUSED),
        (429, Reason.ENGINE_UNAVAILABLE),
        (302, Reason.ENGINE_UNAVAILABLE),
        (500, Reason.ENGINE_UNAVAILABLE),
        (503, Reason.ENGINE_UNAVAILABLE),
    ],
)
async def test_error_statuses_are_told_apart(engine: Engine, status: int, reason: Reason) -> None:
    with pytest.raises(EngineError, match="out of cheese") as refused:
        await outputs(engine, hostile.answers(status, {"error": {"message": "out of cheese\x1b[2J"}}))
    assert refused.value.reason is reason
    assert "\x1b" not in refused.value.message


async def test_no_engine_at_all_is_unavailable(short_dir: Path) -> None:
    async with client(short_dir / "nobody.sock") as made:
        assert not await made.healthy(1.0)
        with pytest.raises(EngineError) as refused:
            await anext(made.generate(task()))
    assert refused.value.reason is Reason.ENGINE_UNAVAILABLE


async def test_closing_the_iterator_drops_the_connection(engine: Engine) -> None:
    engine.routes[PATH] = hostile.says_then_hangs(chunk("a"))
    async with client(engine.socket) as made:
        generation = made.generate(task())
        assert await anext(generation) == Piece("a")
        await generation.aclose()
        await within(engine.left.wait())


async def test_embeddings_that_are_too_large_are_cut_off(engine: Engine) -> None:
    engine.routes["/v1/embeddings"] = hostile.answers(200, b"[" + b"1," * (1 << 20))
    async with client(engine.socket, profile="tei") as made:
        with pytest.raises(EngineError, match="longer than") as refused:
            await anext(made.generate(task(EmbeddingInput(texts=("a",)))))
    assert refused.value.reason is Reason.ENGINE_GARBAGE
