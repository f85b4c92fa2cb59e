"""The real llama-server in the sandbox: the same engine process asked directly and through agent and coordinator."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from agent.core import engines
from agent.core.model import ChatInput, Message, Sampling, TaskSpec
from agent.devnet.coordinator import Coordinator
from agent.devnet.core import asking
from agent.devnet.core.records import ENDED, TaskState
from agent.devnet.streams import ChunkSeen, Place, StateSeen
from agent.edges.models.demo import assemble_demo_model
from agent.edges.models.store import ModelStore
from agent.edges.sandbox.sockets import SandboxConnector
from tests.bench.node import BenchNode, coordinator, percentile
from tests.bench.table import Row, at_least, at_most
from tests.tiny_model import write_tiny_model

SLOTS = 16
CONCURRENCY = (1, 4, 16)
TOKENS = 64
_PROFILE = engines.PROFILES["llama-server"]


class Answered(NamedTuple):
    """One task; seconds since it was asked."""

    first_s: float
    whole_s: float
    tokens: int


Ask = Callable[[int], Awaitable[Answered]]
"""By the number of the task, which is its seed."""


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] = []
    usage: _Usage | None = None


_chunks = msgspec.json.Decoder(_Chunk)


def _input(number: int) -> ChatInput:
    return ChatInput(messages=(Message(role="user", content=f"Tell me about the number {number}."),))


def direct(http: aiohttp.ClientSession, digest: str, top_logprobs: int) -> Ask:
    """The engine's own API, with what the agent asks of it; `top_logprobs` 0 leaves out what the proof needs."""

    async def ask(number: int) -> Answered:
        spec = TaskSpec(
            task_id="direct",
            model_digest=digest,
            input=_input(number),
            sampling=Sampling(seed=number),
            max_tokens=TOKENS,
        )
        request = engines.build_request(_PROFILE, "bench", spec, top_logprobs)
        began, first_s, tokens = time.perf_counter(), 0.0, 0
        async with http.post("http://engine" + request.path, data=request.body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    chunk = _chunks.decode(line[6:])
                    first_s = first_s or time.perf_counter() - began
                    tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        return Answered(first_s, time.perf_counter() - began, tokens)

    return ask


def through(running: Coordinator, digest: str) -> Ask:
    """From the submission to the receipt."""
    desk = running.desk

    async def ask(number: int) -> Answered:
        asked = asking.TaskAsked(
            model_digest=digest,
            input=_input(number),
            max_tokens=TOKENS,
            sampling=asking.SamplingAsked(seed=number),
        )
        began, first_s, tokens = time.perf_counter(), 0.0, 0
        decision = asking.submit(desk.book, desk.when(), asked, f"t-{secrets.token_hex(12)}", secrets.token_hex(32))
        task_id = await desk.carry_out(decision)
        async for event in desk.streams.follow(task_id, StateSeen(state=TaskState.QUEUED), Place(), 60.0):
            match event:
                case ChunkSeen():
                    first_s = first_s or time.perf_counter() - began
                    tokens += event.tokens
                case StateSeen(state=TaskState.SETTLED):
                    break
                case StateSeen(state=state) if state in ENDED:
                    raise RuntimeError(f"task {number} ended {state}: {event.detail}")
        return Answered(first_s, time.perf_counter() - began, tokens)

    return ask


async def _customers(ask: Ask, concurrency: int, tasks: int) -> tuple[float, list[Answered]]:
    """Tokens a second, and every answer."""
    numbers, answers = iter(range(1, tasks + 1)), []

    async def customer() -> None:
        for number in numbers:
            answers.append(await ask(number))

    began = time.perf_counter()
    await asyncio.gather(*(customer() for _ in range(concurrency)))
    return sum(one.tokens for one in answers) / (time.perf_counter() - began), answers


async def measure(rounds: int, model: str) -> list[Row]:
    """All figures of one model: `tiny` or `demo`."""
    async with coordinator() as running:
        node = BenchNode(running, pools=_pool(Path("WEIGHTS")))
        try:
            weights = await _weights(node.home, model)
            node.config.write_text(node.config.read_text().replace("WEIGHTS", str(weights)))
            node.start("-m", "agent", "run", "--config", str(node.config))
            await node.beaten()
            [socket] = (path for path in (node.home / "run/engines/bench").rglob("*") if path.is_socket())
            [seen] = running.desk.book.nodes.values()
            assert seen.fingerprint is not None
            digest = seen.fingerprint.models[0].digest
            connector = SandboxConnector(socket, limit=0, force_close=True)
            async with aiohttp.ClientSession(connector=connector) as http:
                asks = {"through": through(running, digest), "same": direct(http, digest, 40)}
                asks["plain"] = direct(http, digest, 0)
                rows = await _throughput(asks, rounds, 4 if model == "tiny" else 1)
                return rows + await _latency(asks, rounds * 10)
        finally:
            node.close()


async def _weights(home: Path, model: str) -> Path:
    if model == "tiny":
        return write_tiny_model(home / "tiny.gguf")
    cache = home / "cache"
    cache.mkdir(exist_ok=True)
    return await assemble_demo_model(cache, ModelStore(cache), lambda *_: None)


def _pool(weights: Path) -> str:
    return (
        f'[[models]]\nname = "bench"\npath = "{weights}"\n[[pools]]\nname = "bench"\nmodel = "bench"\ndevice = "cpu"\n'
        f"slots = {SLOTS}\ncontext_tokens = 256\nthreads = 1\n"
    )


async def _throughput(asks: dict[str, Ask], rounds: int, share: int) -> list[Row]:
    rows = []
    for concurrency in CONCURRENCY:
        best = dict.fromkeys(asks, 0.0)
        for _ in range(rounds):
            for name, ask in asks.items():
                rate, _answers = await _customers(ask, concurrency, max(4, share * concurrency))
                best[name] = max(best[name], rate)
        what = f"throughput at {concurrency}: {best['through']:,.0f} tokens/s through ÷ {best['same']:,.0f} direct"
        rows.append(at_least(what, best["through"] / best["same"], 0.98))
        plain = best["through"] / best["plain"]
        rows.append(Row(f"… ÷ {best['plain']:,.0f} direct without log-probabilities", f"{plain:.3f}"))
    return rows


async def _latency(asks: dict[str, Ask], tasks: int) -> list[Row]:
    """One at a time, in turns, so that both meet the same machine."""
    answers: dict[str, list[Answered]] = {"through": [], "same": []}
    for number in range(1, tasks + 1):
        for name, kept in answers.items():
            kept.append(await asks[name](number))
    more = [(a.whole_s - b.whole_s) * 1000 for a, b in zip(answers["through"], answers["same"], strict=True)]
    first = [(a.first_s - b.first_s) * 1000 for a, b in zip(answers["through"], answers["same"], strict=True)]
    return [
        at_most("one task over the direct call, p50", percentile(more, 0.5), 5.0, "ms", 2),
        Row("… p99", f"{percentile(more, 0.99):.2f} ms"),
        at_most("time to first token over the direct call, p50", percentile(first, 0.5), 5.0, "ms", 2),
        Row("… p99", f"{percentile(first, 0.99):.2f} ms"),
    ]
