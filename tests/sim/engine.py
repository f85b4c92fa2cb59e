"""An engine that takes the time its task's plan says, and fails as the noise and the faults say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

import msgspec

from agent.core.errors import EngineError
from agent.core.model import ChatInput, FinishReason, Reason, TaskSpec, Usage
from agent.ports import EngineOutput, Finished, Piece
from tests import builders

if TYPE_CHECKING:
    from tests.sim.world import World


class SimEngine:
    """Implements ports.EnginePool."""

    def __init__(self, world: World, node: int, slots: int, chance: random.Random) -> None:
        self._world, self._node, self._chance = world, node, chance
        self.facts = builders.pool(slots=slots, ready=False)
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
        life, truth = self._life, self._world.truth
        plan = self._world.task_of(task)
        mood = self._mood()
        truth.computes(self._node, task.task_id)
        try:
            for number in range(plan.tokens):
                await asyncio.sleep(plan.token_s)
                if life != self._life or (mood == "crash" and number == plan.tokens // 2):
                    raise EngineError(Reason.ENGINE_CRASHED, "the engine died: Segmentation fault")
                yield Piece(f"w{number} ", 10 + number, -0.5, (10 + number, 3), (-0.5, -1.5))
            if mood == "early":
                return
            usage = Usage(prompt_tokens=500, completion_tokens=plan.tokens)
            yield Finished(finish=FinishReason.STOP, usage=usage, request_sha256="11" * 32)
            if mood == "babble":
                yield Piece("more", 1, -0.1, (1,), (-0.1,))
        finally:
            truth.rests(self._node, task.task_id)

    def _mood(self) -> str:
        if self._world.noise.engine <= self._chance.random():
            return "well"
        return self._chance.choice(["crash", "early", "babble"])


def number_of(task: TaskSpec) -> int:
    """Which plan a task follows: its prompt says so."""
    assert isinstance(task.input, ChatInput)
    return int(task.input.messages[0].content)
