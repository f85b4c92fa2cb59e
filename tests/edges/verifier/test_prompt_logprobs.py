"""Replay through vLLM's `prompt_logprobs`, on a server that speaks its protocol."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from agent.core.checks.claims import Position
from agent.core.checks.verdict import Thresholds, Verdict, judge
from agent.core.engines import prompt_digest
from agent.core.errors import EngineError
from agent.core.model import ChatInput, FinishReason, Message, Reason
from agent.core.proof.leaves import read_leaf
from agent.core.proof.transcript import TranscriptBuilder
from agent.edges.engines.http import EngineHttp
from agent.edges.verifier.prompt_logprobs import PromptLogprobsReplayer
from agent.ports import Piece
from agent.stages.recheck import Claim, with_model
from tests.core.proof.making import header
from tests.edges.verifier.vllm import END, MOST, Vllm, logprobs, spelled

CHAT = ChatInput(messages=(Message(role="user", content="hello"),))


@contextlib.asynccontextmanager
async def asking(app: web.Application, short_dir: Path) -> AsyncIterator[PromptLogprobsReplayer]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(short_dir / "vllm.sock")).start()
    http = EngineHttp("http://vllm", lambda: aiohttp.UnixConnector(str(short_dir / "vllm.sock")), reply_s=5.0)
    try:
        yield PromptLogprobsReplayer(http, "m")
    finally:
        await http.close()
        await runner.cleanup()


def greedy_claim(prompt: tuple[int, ...], *, tokens: int = 40, swap: tuple[int, ...] = ()) -> Claim:
    """An honest greedy generation by the made-up model; tokens at `swap` are its third choice."""
    builder, ids = TranscriptBuilder(MOST), list(prompt)
    for at in range(tokens):
        known = logprobs(ids)
        listed = sorted(range(len(known)), key=lambda one: -known[one])[:MOST]
        ids.append(listed[2 if at in swap else 0])
        builder.add(Piece("", ids[-1], None, tuple(listed), tuple(known[one] for one in listed)))
    made = builder.finish()
    told = msgspec.structs.replace(
        header(made),
        engine="vllm 0.11",
        samplers=(),
        temperature_micros=0,
        n_probs=MOST,
        max_tokens=tokens,
        completion_tokens=tokens,
        finish=FinishReason.LENGTH,
        prompt_tokens=len(prompt),
        prompt_sha256=prompt_digest(prompt),
    )
    return Claim(CHAT, told, tuple(map(read_leaf, made.leaves)), spelled(ids[len(prompt) :]))


async def test_an_honest_task_of_another_machine_passes(short_dir: Path):
    server = Vllm(noise=0.03)
    async with asking(server.application(), short_dir) as replayer:
        claim = greedy_claim(await replayer.prompt_ids(CHAT))
        found = await with_model(claim, replayer)
    assert judge(found, Thresholds()).verdict is Verdict.PASS
    assert [chunk.plausible.compared for chunk in found.chunks] == [32, 8]
    assert 0 < found.chunks[0].close.mean < 0.1
    asked = [body for path, body in server.seen if path == "/v1/completions" and "prompt_logprobs" in body]
    assert len(asked) == 1  # one prefill for all
    assert {(body["prompt_logprobs"], body["max_tokens"]) for body in asked} == {(MOST, 1)}


async def test_chosen_chunks_are_asked_for_one_by_one(short_dir: Path):
    server = Vllm(noise=0.03)
    async with asking(server.application(), short_dir) as replayer:
        prompt = await replayer.prompt_ids(CHAT)
        found = await with_model(greedy_claim(prompt, tokens=70), replayer, chosen=[0, 2])
    assert [(one.leaf, one.plausible.compared) for one in found.chunks] == [(0, 32), (2, 6)]
    asked = [body["prompt"] for _, body in server.seen if "prompt_logprobs" in body]
    assert [len(one) - len(prompt) for one in asked] == [32, 70]


async def test_tokens_that_the_model_would_not_have_said_fail(short_dir: Path):
    async with asking(Vllm().application(), short_dir) as replayer:
        claim = greedy_claim(await replayer.prompt_ids(CHAT), swap=tuple(range(0, 40, 3)))
        found = await with_model(claim, replayer)
    assert found.chunks[0].close.mean == pytest.approx(0.0, abs=1e-5)  # the log-probabilities themselves are true
    assert found.chunks[0].plausible.far >= 5
    assert judge(found, Thresholds()).verdict is Verdict.FAIL


async def test_a_token_beyond_the_candidates_is_told_by_vllm_and_left_out_of_the_list(short_dir: Path):
    async with asking(Vllm().application(), short_dir) as replayer:
        known = logprobs([1, 5])
        last = min(range(len(known)), key=lambda one: known[one])
        [position] = await replayer.replay([1, 5], [last], 10)
    assert (position.token, position.rank(), len(position.ids)) == (last, None, 10)
    assert list(position.logprobs) == sorted(known, reverse=True)[:10]


async def test_more_candidates_than_the_server_gives_are_not_asked_for(short_dir: Path):
    async with asking(Vllm().application(), short_dir) as replayer:
        [position] = await replayer.replay([1], [3], 40)
        assert len(position.ids) == MOST
        assert [await replayer.ends(token) for token in (END, 5)] == [True, False]
        assert await replayer.text([3, 4, END]) == "34"
        assert await replayer.in_one_go([3, 4]) == 0


@pytest.mark.parametrize(
    "reply",
    [
        {"choices": []},
        {"choices": [{"prompt_logprobs": None}]},
        {"choices": [{"prompt_logprobs": [None]}]},
        {"choices": [{"prompt_logprobs": [None, None]}]},
        {"choices": [{"prompt_logprobs": [None, {"x": {"logprob": -1.0}}]}]},
        {"choices": [{"prompt_logprobs": [None, {"3": {"logprob": "-1"}}]}]},
        b'{"choices": [{"prompt_logprobs": [null, {"3": {"logprob": -1e999}}]}]}',
        b"",
    ],
)
async def test_an_answer_that_is_none_is_told_as_such(short_dir: Path, reply: object):
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=reply) if isinstance(reply, bytes) else web.json_response(reply)

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with asking(app, short_dir) as replayer:
        with pytest.raises(EngineError) as refused:
            await replayer.replay([1], [3], 5)
    assert refused.value.reason is Reason.ENGINE_GARBAGE


def test_a_position_names_the_rank_of_its_token():
    assert [Position(token, (7, 8), (-0.1, -3.0)).rank() for token in (7, 8, 9, None)] == [0, 1, None, None]
