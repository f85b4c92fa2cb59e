"""Where attacks are made and judged: one coordinator, its requester, dishonest nodes, and a verifier with the model."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.cli.rechecking import claim_of
from agent.config import Config, ModelConfig, NodeConfig, PoolConfig
from agent.core.checks.claims import chunks
from agent.core.checks.verdict import Metrics, Thresholds, judge
from agent.core.model import ChatInput, CompletionInput
from agent.core.proof.receipt import examine
from agent.core.wire import ReceiptBundle, ResultBody
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Rules
from agent.devnet.requester import Requester
from agent.edges.clock import SystemClock
from agent.edges.engines.build import build_pools, processor
from agent.edges.engines.launch import (
    LlamaSettings,
    determinism_class,
    engine_digest,
    engine_files,
    find_llama_server,
)
from agent.edges.models.store import ModelStore
from agent.edges.models.thresholds import shelf
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.signing import verify
from agent.edges.verifier.engine import llama_replayer
from agent.ports import EnginePool, Replayer
from agent.stages.recheck import Claim, with_model, without_model
from tests.attack import node
from tests.attack.node import Node
from tests.attack.outcome import Found, of_metrics
from tests.attack.pools import Warm

CONTEXT_TOKENS = 1024
THREADS = 1
"""Two wait for each other without rest: on a machine that others use too that takes many times as long. What is
computed does not depend on their number."""
ENGINE_READY_S = 120.0
TASK_S = 300.0
DEADLINE_S = 7200.0
"""A whole row waits in the queue."""


class TrueModel(NamedTuple):
    """What tasks ask for, and what the verifier has."""

    name: str
    weights: Path
    chat_template: Path | None
    digest: str


class Asked(NamedTuple):
    """One task."""

    given: ChatInput | CompletionInput
    max_tokens: int = 128
    sampling: SamplingAsked = SamplingAsked()


class Done(NamedTuple):
    """What the verifier gets of one task, through the doors that an honest node's takes."""

    task_id: str
    bundle: ReceiptBundle
    transcript: bytes


class Field:
    """Made by `opened`."""

    def __init__(
        self,
        coordinator: Coordinator,
        requester: Requester,
        model: TrueModel,
        home: Path,
        replayer: Replayer,
        cache: Path,
        limits: Thresholds,
    ) -> None:
        """`cache`: where files stay that take long to make."""
        self.coordinator = coordinator
        self.requester = requester
        self.model = model
        self.home = home
        self.cache = cache
        self.limits = limits
        self.chance = random.Random(20_261_122)
        self.first = 0
        """The number of a row's first task: another part of a row goes on where the first ended."""
        self._replayer = replayer
        self._numbers = itertools.count(1)

    def numbers(self, runs: int) -> range:
        """Of the tasks of one row."""
        return range(self.first, self.first + runs)

    # ------------------------------------------------------------------ nodes

    @contextlib.asynccontextmanager
    async def engine(
        self, weights: Path | None = None, *, slots: int = 1, threads: int = THREADS, args: Sequence[str] = ()
    ) -> AsyncIterator[EnginePool]:
        """A real engine, ready; of other weights when some are given. Its facts tell the truth."""
        runtime = self._place("e")
        config = Config(
            node=NodeConfig(runtime_dir=runtime, cache_dir=self.home / "cache"),
            models=(_model(self.model, weights or self.model.weights),),
            pools=(_pool(self.model, slots, threads, tuple(args)),),
        )
        [pool] = (await build_pools(config, Bubblewrap(runtime), SystemClock())).pools
        ready = asyncio.Event()
        running = asyncio.create_task(pool.run(lambda: ready.set() if pool.facts.ready else None))
        try:
            async with asyncio.timeout(ENGINE_READY_S):
                await ready.wait()
            yield pool
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    @contextlib.asynccontextmanager
    async def node(self, pool: EnginePool) -> AsyncIterator[Node]:
        """A node with this pool: the only one that takes tasks while it is there."""
        home = self.home / f"node-{next(self._numbers)}"
        async with node.running(pool, home, self.coordinator.url, self.coordinator.enrol_token()) as made:
            yield made

    def claimed(self, slots: int = 1) -> dict[str, Any]:
        """Facts of an engine that does what was asked for, to be claimed by one that does not."""
        return {"model_digest": self.model.digest, "determinism": self._determinism(slots)}

    @contextlib.asynccontextmanager
    async def another_replayer(self) -> AsyncIterator[Replayer]:
        """A second engine of a dishonest node's own, with the true model."""
        async with _replayer(self.model, self._place("r")) as made:
            yield made

    def _place(self, kind: str) -> Path:
        """Short: unix sockets live there."""
        return Path(tempfile.mkdtemp(prefix=kind, dir=self.home))

    # ------------------------------------------------------------------ tasks

    async def done(self, node: Node, asked: Iterable[Asked]) -> AsyncIterator[Done]:
        """What came of each. All are submitted at once: the node goes on while the first is looked at."""
        submitted = [await self.submit(it) for it in asked]
        for task_id in submitted:
            yield await self._done(node, task_id)

    async def submit(self, it: Asked) -> str:
        """Queue one task; returns its id."""
        return await self.requester.submit(
            self.model.digest, it.given, max_tokens=it.max_tokens, sampling=it.sampling, deadline_s=DEADLINE_S
        )

    async def _done(self, node: Node, task_id: str) -> Done:
        async with asyncio.timeout(TASK_S):
            view = await self.requester.result(task_id)
        assert view.state is TaskState.SETTLED, view
        bundle = await self.requester.receipt(task_id)
        body = msgspec.json.decode(bundle.result.payload, type=ResultBody)
        return Done(task_id, bundle, node.transcript(body.key))

    async def tried(self, pool: Warm, asked: Iterable[Asked], *, leaves: int, exact: bool = False) -> list[Found]:
        """A node with this pool does all that is asked, and each is judged, but for those that it spared."""
        async with self.node(pool) as made:
            return [
                await self.found(done, leaves=leaves, exact=exact)
                async for done in self.done(made, asked)
                if done.task_id not in pool.spared
            ]

    # ------------------------------------------------------------------ the verifier

    async def found(self, done: Done, *, leaves: int, exact: bool = False) -> Found:
        """What a verifier says that repeats `leaves` chunks, always the first and the last; for none it needs no
        model. `exact`: it demands equal bits where the node claims its class."""
        key = self.coordinator.public_key
        verdict = examine(done.bundle, verify, coordinator_key=key, transcript=done.transcript)
        if verdict.error is not None or verdict.case is None:
            return Found.refused(verdict.error.check if verdict.error else "format")
        claim = claim_of(verdict.case)
        assert claim is not None
        metrics = await self._metrics(claim, leaves, exact)
        return of_metrics(metrics, judge(metrics, self.limits), self.limits)

    async def _metrics(self, claim: Claim, leaves: int, exact: bool) -> Metrics:
        if leaves == 0:
            return without_model(claim)
        same_class = exact and claim.header.determinism == self._determinism(1)
        chosen = self._choice([chunk.leaf for chunk in chunks(claim.leaves)], leaves)
        return await with_model(claim, self._replayer, chosen=chosen, exact=same_class)

    def _choice(self, leaves: Sequence[int], most: int) -> frozenset[int]:
        if len(leaves) <= most:
            return frozenset(leaves)
        ends = [leaves[0], leaves[-1]][:most]
        return frozenset([*ends, *self.chance.sample(leaves[1:-1], most - len(ends))])

    def _determinism(self, slots: int) -> str:
        return determinism_class(_settings(self.model, self.home, slots), self._engine_digest, self._processor)

    async def measure(self) -> None:
        """The engine's own digest, once."""
        store, binary = ModelStore(self.home / "cache"), find_llama_server("auto")
        hashes = {file.name: (await store.sha256(file)).sha256 for file in engine_files(binary)}
        self._engine_digest = engine_digest(hashes)
        self._processor = processor(Path("/proc/cpuinfo")) + "cpu"


@contextlib.asynccontextmanager
async def opened(weights: Path, name: str, chat_template: Path | None, cache: Path) -> AsyncIterator[Field]:
    """A field on `weights`, which are the truth."""
    with tempfile.TemporaryDirectory(prefix="ga-attack-") as folder:
        home = Path(folder)
        store = ModelStore(home / "cache")
        verified = await store.verify(name, weights, chat_template=chat_template)
        model = TrueModel(name, weights, chat_template, verified.facts.digest)
        async with contextlib.AsyncExitStack() as stack:
            rules = Rules(lease_s=120.0, beat_s=5.0, pause_after_failure_s=0.1)
            coordinator = await stack.enter_async_context(
                Coordinator(home / "coordinator", options=Options(rules=rules))
            )
            requester = await stack.enter_async_context(Requester(coordinator.url, coordinator.requester_token))
            place = home / "v"
            place.mkdir()
            replayer = await stack.enter_async_context(_replayer(model, place))
            field = Field(coordinator, requester, model, home, replayer, cache, limits_for(model.digest))
            await field.measure()
            yield field


def limits_for(model_digest: str) -> Thresholds:
    """Those of the shipped calibration; a model that has none gets the uncalibrated ones."""
    shipped = shelf()
    found = (shipped.thresholds_for(model_digest, engine) for engine in shipped.engines_of(model_digest))
    return next((limits for limits in found if limits is not None), Thresholds())


@contextlib.asynccontextmanager
async def _replayer(model: TrueModel, place: Path) -> AsyncIterator[Replayer]:
    async with llama_replayer(_settings(model, place, 1), Bubblewrap(place), SystemClock()) as made:
        yield made


def _model(model: TrueModel, weights: Path) -> ModelConfig:
    return ModelConfig(name=model.name, path=weights, chat_template=model.chat_template)


def _pool(model: TrueModel, slots: int, threads: int, args: tuple[str, ...]) -> PoolConfig:
    shape = {"slots": slots, "threads": threads, "args": args, "context_tokens": CONTEXT_TOKENS}
    return PoolConfig(name="cpu", model=model.name, device="cpu", **shape)


def _settings(model: TrueModel, place: Path, slots: int) -> LlamaSettings:
    """The verifier's engine; or, with `slots`, what an honest node's would be."""
    return LlamaSettings(
        name="verifier",
        binary=find_llama_server("auto"),
        model=model.name,
        model_digest=model.digest,
        weights=model.weights,
        chat_template=model.chat_template,
        socket_dir=place,
        slots=slots,
        context_tokens=CONTEXT_TOKENS,
        threads=THREADS,
    )
