"""Engines of dishonest nodes: real pools, with somebody between them and the agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from agent.config import Config
from agent.core.fingerprint import Model, Pool
from agent.core.model import TaskSpec
from agent.edges.engines.build import Built, PoolBuilder
from agent.edges.engines.placement import GpuRoom
from agent.edges.models.store import Progress
from agent.ports import Clock, EngineOutput, EnginePool, Sandbox


class Warm:
    """A pool whose engine runs already and stays when the node is gone. Claims `facts` on top of the engine's own."""

    def __init__(self, inner: EnginePool, **facts: Any) -> None:
        self.inner = inner
        self._claimed = facts
        self.spared: set[str] = set()
        """Tasks with which it was honest, for lack of an opportunity."""

    @property
    def facts(self) -> Pool:
        return msgspec.structs.replace(self.inner.facts, **self._claimed)

    async def run(self, changed: Callable[[], None]) -> None:
        changed()
        await asyncio.Event().wait()

    async def check(self, task: TaskSpec) -> None:
        await self.inner.check(task)

    def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        return self.inner.generate(task)


def only(pool: EnginePool) -> PoolBuilder:
    """A node's composition gets this pool, in place of those that its configuration names."""

    async def build(
        config: Config,
        sandbox: Sandbox,
        clock: Clock,
        *,
        gpus: Sequence[str] = (),
        room: GpuRoom | None = None,
        progress: Progress = lambda *_told: None,
    ) -> Built:
        facts = pool.facts
        return Built((pool,), (Model(name=facts.model, digest=facts.model_digest, bytes=0),))

    return build
