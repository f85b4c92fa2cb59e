"""An engine that takes the time its task's plan says, and fails as the noise and the faults say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from agent.core.engines import prompt_digest
from agent.core.errors import EngineError
from agent.core.model import ChatInput, ExecInput, FinishReason, Reason, TaskKind, TaskSpec, Usage
from agent.ports import EngineOutput, Finished, Piece
from tests import builders
from tests.sim import model

if TYPE_CHECKING:
    from tests.sim.world import World

LONG, TOKENS_A_STEP = 12, 8
"""Long answers come in such pieces, to keep a run's steps for what may go wrong."""


class SimEngine:
    """Implements ports.EnginePool."""

    def __init__(self, world: World, node: int, slots: int, chance: random.Random) -> None:
        self._world, self._node, self._chance = world, node, chance
        determinism = model.EXACT if slots == 1 else model.SEVERAL
        self.facts = builders.pool(
            slots=slots,
            ready=False,
            engine=model.ENGINE,
            determinism=determinism,
            kinds=(TaskKind.CHAT, TaskKind.COMPLETION, TaskKind.VERIFY),
        )
        self._noise = model.noise_of(node, determinism)
        self._life = 0
        self._changed: Callable[[], None] = lambda: None

    async def run(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        changed()
        await asyncio.sleep(self._chance.uniform(0.1, 3.0))
        self.ready(True)
        await asyncio.Event().wait()

    def ready(self, ready: bool) -> None:
        """Its process is there, or died: then everything that it computed on is lost."""
        self._life += not ready
        self.facts = msgspec.structs.replace(self.facts, ready=ready, detail="" if ready else "the engine restarts")
        self._changed()

    async def check(self, task: TaskSpec) -> None:
        await asyncio.sleep(self._chance.random() * 0.01)
        if self._world.noise.engine * 0.2 > self._chance.random():
            raise EngineError(Reason.CONTEXT_TOO_LONG, "the prompt does not fit")

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        assert isinstance(task.input, ChatInput)
        life, truth, plan = self._life, self._world.truth, self._world.task_of(task)
        mood, before = self._mood(), model.prompt_of(task.input)
        truth.computes(self._node, task.task_id)
        usage = Usage(prompt_tokens=len(before), completion_tokens=plan.tokens)
        prompt_sha256 = prompt_digest(before)
        try:
            for number in range(plan.tokens):
                if number % self._stride(plan.tokens) == 0:
                    await asyncio.sleep(plan.token_s * self._stride(plan.tokens))
                if life != self._life or (mood == "crash" and number == plan.tokens // 2):
                    raise EngineError(Reason.ENGINE_CRASHED, "the engine died: Segmentation fault")
                ids, figures = model.said(before, self._noise, model.TOP)
                yield Piece(model.spelled(ids[:1]), ids[0], figures[0], ids, figures)
                before = (*before, ids[0])
            if mood == "early":
                return
            yield Finished(
                finish=FinishReason.LENGTH,
                usage=usage,
                request_sha256="11" * 32,
                prompt_sha256=prompt_sha256,
                n_probs=model.TOP,
            )
            if mood == "babble":
                yield Piece("more", 1, -0.1, (1,), (-0.1,))
        finally:
            truth.rests(self._node, task.task_id)

    @asynccontextmanager
    async def replayer(self) -> AsyncIterator[model.SimReplayer]:
        life = self._life
        if not self.facts.ready:
            raise EngineError(Reason.ENGINE_UNAVAILABLE, "the engine restarts")
        yield model.SimReplayer(self._noise, self._chance, lambda: life != self._life)

    @staticmethod
    def _stride(tokens: int) -> int:
        return TOKENS_A_STEP if tokens > LONG else 1

    def _mood(self) -> str:
        if self._world.noise.engine <= self._chance.random():
            return "well"
        return self._chance.choice(["crash", "early", "babble"])


def number_of(task: TaskSpec) -> int:
    """Which plan a task follows: its prompt, or its program's argument, says so."""
    if isinstance(task.input, ExecInput):
        return int(task.input.argv[1])
    assert isinstance(task.input, ChatInput)
    return int(task.input.messages[0].content)
