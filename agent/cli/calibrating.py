"""The run behind `gpu-agent calibrate`: honest work on a real engine, repeated by a verifier, and the noise between."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent import __version__
from agent.cli.device import find_place
from agent.cli.rechecking import Model, engine_settings
from agent.core import wire
from agent.core.checks import claims
from agent.core.checks.calibration import (
    VERSION,
    Calibration,
    Device,
    Sample,
    Work,
    limits_of,
    noise_of,
    samples_of,
)
from agent.core.checks.verdict import CHUNK_TOKENS, Thresholds, Verdict, judge
from agent.core.errors import EngineError
from agent.core.model import (
    ChatInput,
    CompletionInput,
    EmbeddingInput,
    Message,
    Reason,
    Sampling,
    TaskKind,
    TaskSpec,
)
from agent.core.proof.header import header_of
from agent.core.proof.leaves import Leaf, read_leaf
from agent.core.proof.transcript import LeafKind
from agent.edges.clock import SystemClock
from agent.edges.engines.build import processor
from agent.edges.engines.launch import engine_digest, engine_files
from agent.edges.engines.llama import EngineFacts, LlamaPool
from agent.edges.models.store import ModelStore
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.verifier.engine import llama_replayer
from agent.stages.generation import Generation
from agent.stages.recheck import Claim, with_model

if TYPE_CHECKING:
    from agent.core.checks.verdict import Metrics

PROMPTS = Path(__file__).parent.parent / "edges" / "models" / "prompts.toml"
TOP_LOGPROBS = 40
_MOST_TASKS, _MOST_TASKS_A_CHUNK = 256, 4
"""A model that ends its answers at once never has enough chunks: then it is told, instead of asked for ever."""
_LONG_ENOUGH = CHUNK_TOKENS // 2
_PARTS = 8
"""Rows that an embedded prompt makes: its beginnings, so that they differ in length."""
_ANY_SEED = (1 << 32) - 1
"""Engines read this one as "any"."""
_DRAWS = (
    Sampling(seed=0, temperature_micros=0),
    Sampling(seed=0, temperature_micros=700_000, top_p_micros=950_000),
    Sampling(seed=0, temperature_micros=1_000_000, top_p_micros=1_000_000),
    Sampling(seed=0, temperature_micros=800_000, top_k=20, min_p_micros=50_000),
)
"""Greedy, and three ways of drawing; each prompt meets all of them in turn."""


class Wanted(NamedTuple):
    """What to measure."""

    model: Model
    chunks: int
    """Chunks, or rows."""
    prompts: int
    tokens: int
    """The longest answer."""
    slots: int
    work: Work = Work.GENERATION


Told = Callable[[str, int, int], None]
"""(what is done, how many, of how many)"""


class _Given(NamedTuple):
    prompt: int
    given: ChatInput | CompletionInput | EmbeddingInput
    draw: Sampling
    """But for its seed."""


class _Assumed:
    """Implements ports.Calibrations: what is being calibrated works as the class that it is to become."""

    def thresholds_for(self, *_which: object, **_how: object) -> Thresholds:
        return Thresholds()


class _Honest(NamedTuple):
    """One task that was done as it should be."""

    prompt: int
    claim: Claim
    chunks: int
    """What it contributes, at least."""


async def measure(wanted: Wanted, told: Told) -> Calibration:
    """Do the work and repeat it. Raises ModelError, EngineError, SandboxError, ProofError(NOISY)."""
    with tempfile.TemporaryDirectory(prefix="gpu-agent-calibrate-") as folder:
        home, model = Path(folder), wanted.model
        store = ModelStore(home)
        digest = (await store.verify(model.name, model.weights, chat_template=model.chat_template)).facts.digest
        kinds = (TaskKind.EMBEDDING,) if wanted.work is Work.EMBEDDING else (TaskKind.CHAT, TaskKind.COMPLETION)
        place = await find_place(model.device)
        node = engine_settings(model, digest, home, kinds, place, wanted.slots)
        sandbox = Bubblewrap(home, place_of=place.node_of)
        pool = LlamaPool(
            node,
            sandbox=sandbox,
            clock=SystemClock(),
            measure=partial(_measured, store, node.binary),
            calibrations=_Assumed(),
            top_logprobs=TOP_LOGPROBS,
        )
        # One engine after the other: a model that fills the memory is there once.
        async with _running(pool):
            facts = pool.facts
            honest = await _work(pool, wanted, digest, told)
        verifier = engine_settings(model, digest, home, kinds, place)
        async with llama_replayer(verifier, sandbox, SystemClock()) as replayer:
            found = []
            for done, one in enumerate(honest):
                told("repeated", done, len(honest))
                found.append(_held(one, await with_model(one.claim, replayer, apart=True)))
            told("repeated", len(honest), len(honest))
    samples: list[Sample] = [sample for metrics in found for sample in samples_of(metrics.chunks)]
    cosines = [cosine for metrics in found if metrics.rows for cosine in metrics.rows.cosines]
    noise = noise_of(samples, cosines)
    return Calibration(
        version=VERSION,
        model=model.name,
        model_digest=digest,
        engine=facts.engine,
        args=model.args,
        device=Device.GPU if place.gpus else Device.CPU,
        work=wanted.work,
        slots=wanted.slots,
        context_tokens=model.context_tokens,
        classes=(facts.determinism,),
        prompts=len({one.prompt for one, metrics in zip(honest, found, strict=True) if metrics.chunks or metrics.rows}),
        chunks=len(samples) + len(cosines),
        tokens=sum(one.claim.header.completion_tokens for one in honest),
        drawn=sum(metrics.sampled.checked for metrics in found if metrics.sampled),
        noise=noise,
        limits=limits_of(noise),
        made_at=int(time.time()),
        tool=f"gpu-agent {__version__}",
    )


def _held(one: _Honest, found: Metrics) -> Metrics:
    """S, the prompt and the end must be right for every honest task. Raises EngineError."""
    judged = judge(found._replace(chunks=(), rows=None), Thresholds())
    if judged.verdict is not Verdict.PASS:
        raise EngineError(
            Reason.ENGINE_GARBAGE,
            f"this engine cannot be verified: honest work on prompt {one.prompt} fails: {'; '.join(judged.reasons)}",
            remedy="Leave out engine arguments, or take the engine's usual version",
        )
    return found


async def _measured(store: ModelStore, binary: Path) -> EngineFacts:
    hashes = {file.name: (await store.sha256(file)).sha256 for file in engine_files(binary)}
    return EngineFacts(engine_digest(hashes), processor(Path("/proc/cpuinfo")))


@contextlib.asynccontextmanager
async def _running(pool: LlamaPool) -> AsyncIterator[None]:
    """While the pool is ready. Raises EngineError when it cannot start."""
    settled: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def changed() -> None:
        facts = pool.facts
        if not settled.done() and (facts.ready or not facts.detail.startswith("the engine is starting")):
            settled.set_result("" if facts.ready else facts.detail)

    running = asyncio.create_task(pool.run(changed))
    try:
        if fault := await settled:
            raise EngineError(Reason.ENGINE_UNAVAILABLE, fault)
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


# --------------------------------------------------------------------------- honest work


async def _work(pool: LlamaPool, wanted: Wanted, digest: str, told: Told) -> list[_Honest]:
    """Tasks, `slots` at a time, until there is enough to be repeated."""
    honest: list[_Honest] = []
    asked = _asked(wanted.work)
    left = max(_MOST_TASKS, _MOST_TASKS_A_CHUNK * wanted.chunks)

    def enough() -> bool:
        chunks, prompts = sum(one.chunks for one in honest), {one.prompt for one in honest if one.chunks}
        told("done", min(chunks, wanted.chunks), wanted.chunks)
        return chunks >= wanted.chunks and len(prompts) >= wanted.prompts

    async def one_slot() -> None:
        nonlocal left
        while left > 0 and not enough():
            left -= 1
            given = next(asked)
            done = await _honest(pool, wanted, digest, given)
            if done.chunks:  # what shows too little costs a repetition and tells nothing
                honest.append(done)

    slots = [asyncio.create_task(one_slot()) for _ in range(wanted.slots)]
    try:
        await asyncio.gather(*slots)
    finally:
        for slot in slots:
            slot.cancel()
    return honest


def _chunks(leaves: Sequence[Leaf]) -> int:
    """How many chunks or rows will count: those of some length, as far as every token is known."""
    if rows := sum(leaf.kind is LeafKind.ROW for leaf in leaves):
        return rows
    shown = claims.positions(leaves)
    known = next((at for at, one in enumerate(shown) if one.token is None), len(shown))
    return sum(
        chunk.start + len(chunk.positions) <= known and len(chunk.positions) >= _LONG_ENOUGH
        for chunk in claims.chunks(leaves)
    )


def _asked(work: Work) -> Iterator[_Given]:
    """Endless: every prompt once a round, each time drawn in another way."""
    prompts = tomllib.loads(PROMPTS.read_text("utf-8"))
    chats = [ChatInput(messages=(Message(role="user", content=text),)) for text in prompts["chat"]]
    whole: list[ChatInput | CompletionInput] = [
        *chats,
        *(CompletionInput(prompt=text) for text in prompts["completion"]),
    ]
    texts = [*prompts["chat"], *prompts["completion"]]
    for round_ in count():
        for number, given in enumerate(whole):
            asked: ChatInput | CompletionInput | EmbeddingInput
            asked = given if work is Work.GENERATION else EmbeddingInput(texts=_beginnings(texts[number]))
            yield _Given(number, asked, _DRAWS[(number + round_) % len(_DRAWS)])


def _beginnings(text: str) -> tuple[str, ...]:
    """Shorter and longer ones."""
    return tuple(text[: max(1, len(text) * part // _PARTS)] for part in range(1, _PARTS + 1))


async def _honest(pool: LlamaPool, wanted: Wanted, digest: str, asked: _Given) -> _Honest:
    """One task, and what an honest node would have to show for it. Raises EngineError."""
    task = TaskSpec(
        task_id=f"calibration-{secrets.token_hex(8)}",
        model_digest=digest,
        input=asked.given,
        sampling=msgspec.structs.replace(asked.draw, seed=secrets.randbelow(_ANY_SEED)),
        max_tokens=wanted.tokens,
    )
    offer = wire.OfferBody(
        node_id="calibration",
        task=task,
        attempt=1,
        fence=1,
        lease_ms=1,
        deadline_ms=1,
        idem_key=task.task_id,
        nonce=secrets.token_hex(32),
    )
    generation = Generation(offer, SystemClock(), top_logprobs=TOP_LOGPROBS)
    async for output in pool.generate(task):
        generation.take(output)
    product = generation.product()
    transcript, finished = product.builder.finish(), product.finished
    header = header_of(
        offer,
        pool.facts,
        node_key="00" * 32,
        n_probs=finished.n_probs,
        finish=finished.finish,
        usage=finished.usage,
        request_sha256=finished.request_sha256,
        prompt_sha256=finished.prompt_sha256,
        proof_kind=transcript.proof_kind,
        output_sha256=hashlib.sha256(product.output.encode()).hexdigest(),
    )
    shown = msgspec.json.decode(product.output, type=_Shown)
    leaves = tuple(map(read_leaf, transcript.leaves))
    return _Honest(asked.prompt, Claim(asked.given, header, leaves, shown.text, shown.vectors), _chunks(leaves))


class _Shown(msgspec.Struct):
    text: str | None = None
    vectors: tuple[tuple[float, ...], ...] | None = None
