"""Honest claims: a task through the real adapter and a real llama-server, committed to as a node does."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.core.model import ChatInput, CompletionInput, EmbeddingInput, Message, Usage
from agent.core.proof.commitment import commit
from agent.core.proof.header import header_of
from agent.core.proof.leaves import read_leaf
from agent.core.proof.transcript import Transcript
from agent.core.wire import OfferBody, ReceiptBundle
from agent.edges.clock import SystemClock
from agent.edges.engines.imprinted import ImprintedPool
from agent.edges.engines.launch import LlamaSettings, find_llama_server
from agent.edges.engines.llama import EngineFacts, LlamaPool
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.verifier.engine import llama_replayer
from agent.edges.verifier.llama import LlamaReplayer
from agent.ports import EnginePool, Limits
from agent.stages.generation import Generation
from agent.stages.recheck import Claim
from tests import builders
from tests.core.proof.making import NODE_KEYS, bundle
from tests.patience import PATIENCE_S
from tests.sandboxes import require_sandbox

N_PROBS = 40
Given = str | ChatInput | CompletionInput | EmbeddingInput
STORY = "Tell me a story."


def settings(weights: Path, socket_dir: Path, **changes: Any) -> LlamaSettings:
    fields: dict[str, Any] = {
        "name": "test",
        "binary": find_llama_server("auto"),
        "model": "m",
        "model_digest": builders.MODEL,
        "weights": weights,
        "socket_dir": socket_dir,
        "context_tokens": 2048,
        "threads": 1,
        "limits": Limits(pids=64),
    }
    return LlamaSettings(**{**fields, **changes})


def made(asked: LlamaSettings, home: Path) -> LlamaPool:
    """A pool that nobody runs yet."""

    async def measured() -> EngineFacts:
        return EngineFacts("e" * 64, "some processor")

    return LlamaPool(asked, sandbox=Bubblewrap(home), clock=SystemClock(), measure=measured, top_logprobs=N_PROBS)


@contextlib.asynccontextmanager
async def pool(weights: Path, home: Path, **changes: Any) -> AsyncIterator[LlamaPool]:
    """A ready pool."""
    await asyncio.to_thread(require_sandbox)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        begun, ready = made(settings(weights, Path(folder), **changes), home), asyncio.Event()
        running = asyncio.create_task(begun.run(lambda: ready.set() if begun.facts.ready else None))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await ready.wait()
            yield begun
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


class Imprinted(NamedTuple):
    """A ready pool with two engines, and the one of them that answers."""

    pool: ImprintedPool
    answers: LlamaPool


@contextlib.asynccontextmanager
async def imprinted(weights: Path, home: Path) -> AsyncIterator[Imprinted]:
    """Texts of 256 tokens at most."""
    second = {"name": "test-states", "context_tokens": 256, "states": True}
    async with pool(weights, home) as answers, pool(weights, home, **second) as states:
        yield Imprinted(ImprintedPool(answers, states), answers)


@contextlib.asynccontextmanager
async def replayer(weights: Path, home: Path, **changes: Any) -> AsyncIterator[LlamaReplayer]:
    """A replayer on an engine of its own."""
    await asyncio.to_thread(require_sandbox)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        asked = settings(weights, Path(folder), name="verifier", **changes)
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(PATIENCE_S):
                ready = await stack.enter_async_context(llama_replayer(asked, Bubblewrap(home), SystemClock()))
            yield ready


class Done(NamedTuple):
    """A finished task: what was asked, what came of it, and what the node would have to show."""

    offer: OfferBody
    output: str
    transcript: Transcript
    claim: Claim

    def bundle(self) -> ReceiptBundle:
        """Its receipt."""
        header = self.claim.header
        fields = {
            "output_sha256": header.output_sha256,
            "output_bytes": len(self.output.encode()),
            "usage": Usage(prompt_tokens=header.prompt_tokens, completion_tokens=header.completion_tokens),
            "commitment": commit(header, self.transcript),
        }
        return bundle(self.offer, output=self.output, result=fields)


async def claim(of: EnginePool, given: Given = STORY, **how: Any) -> Claim:
    """What a node would have to show for one task."""
    return (await done(of, given, **how)).claim


async def done(
    of: EnginePool, given: Given = STORY, *, max_tokens: int = 40, model: str = builders.MODEL, **how: Any
) -> Done:
    """One task, from the offer to the commitment."""
    if isinstance(given, str):
        given = ChatInput(messages=(Message(role="user", content=given),))
    offer = builders.offer(spec=builders.task(task_input=given, model=model, max_tokens=max_tokens, **how))
    generation = Generation(offer, SystemClock(), top_logprobs=N_PROBS)
    async with asyncio.timeout(PATIENCE_S):
        async for output in of.generate(offer.task):
            generation.take(output)
    product = generation.product()
    transcript = product.builder.finish()
    header = header_of(
        offer,
        of.facts,
        node_key=NODE_KEYS.public_key,
        n_probs=product.finished.n_probs,
        finish=product.finished.finish,
        usage=product.finished.usage,
        request_sha256=product.finished.request_sha256,
        prompt_sha256=product.finished.prompt_sha256,
        proof_kind=transcript.proof_kind,
        output_sha256=hashlib.sha256(product.output.encode()).hexdigest(),
    )
    leaves = tuple(map(read_leaf, transcript.leaves))
    output = json.loads(product.output)
    vectors = output.get("vectors")
    shown = Claim(given, header, leaves, output.get("text"), vectors and tuple(map(tuple, vectors)))
    return Done(offer, product.output, transcript, shown)


def altered(honest: Claim, **header: Any) -> Claim:
    """The same claim under another header."""
    return honest._replace(header=msgspec.structs.replace(honest.header, **header))


def relabelled(honest: Done, **header: Any) -> Done:
    """The same task under a header that claims something else."""
    return honest._replace(claim=altered(honest.claim, **header))
