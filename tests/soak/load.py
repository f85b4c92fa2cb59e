"""Tasks of every kind and size, some cancelled and some with too little time; each is followed to its one end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from agent.core.errors import LinkError
from agent.core.model import ChatInput, CompletionInput, EmbeddingInput, Message
from agent.devnet.core.asking import Asked, SamplingAsked
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from agent.devnet.requester import Requester
from agent.devnet.views import TaskView
from tests.soak.engine import LARGE_TOKENS, SLOW

WORKERS = 8
RETRY_S = 0.2


class Shape(NamedTuple):
    """One kind of task, and its share."""

    weight: int
    make: Callable[[random.Random, str], Asked]
    max_tokens: int
    pool: str = "words"
    deadline_s: float | None = None
    cancel_within_s: float | None = None


def chat(text: str) -> ChatInput:
    return ChatInput(messages=(Message(role="user", content=text),))


def words(chance: random.Random, most: int) -> str:
    return "word " * chance.randint(1, most)


SHAPES = {
    "no-op": Shape(30, lambda c, name: chat(name), 1),
    "chat": Shape(20, lambda c, name: chat(f"{name} {words(c, 200)}"), 40),
    "completion": Shape(15, lambda c, name: CompletionInput(prompt=f"{name} {words(c, 50)}"), 80),
    "long prompt": Shape(5, lambda c, name: CompletionInput(prompt=f"{name} {words(c, 8000)}"), 8),
    "embedding": Shape(10, lambda c, name: EmbeddingInput(texts=(name,) * c.randint(1, 32)), 0, pool="vectors"),
    "large output": Shape(2, lambda c, name: chat(name), LARGE_TOKENS),
    "tiny model": Shape(10, lambda c, name: chat(name), 8, pool="tiny"),
    "cancelled": Shape(5, lambda c, name: chat(f"{SLOW} {name}"), 60, cancel_within_s=2.0),
    "too little time": Shape(3, lambda c, name: chat(f"{SLOW} {name}"), 100, deadline_s=1.5),
}


class Load:
    """Asks at a steady rate; `ended` counts what has come to its end."""

    def __init__(self, seed: int, models: dict[str, str], requester: Callable[[], Requester], a_second: float) -> None:
        """`models`: pool → digest; shapes for a pool that is not there are not asked for."""
        self._chance = random.Random(f"{seed}/load")
        self._models, self._requester, self._a_second = models, requester, a_second
        self._shapes = {name: shape for name, shape in SHAPES.items() if shape.pool in models}
        self.submitted: dict[str, str] = {}
        """Task → shape."""
        self.ends: dict[str, TaskState] = {}
        self.untold: list[str] = []
        """Failed without saying why."""
        self.twice: list[str] = []
        self._number = 0

    @property
    def ended(self) -> int:
        return len(self.ends)

    async def ask_until(self, until: float) -> None:
        """Keep asking until then, and follow all to their ends."""
        async with self._requester() as requester, asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                chance = random.Random(self._chance.random())
                group.create_task(self._work(requester, until, chance), name=f"worker {number}")

    async def _work(self, requester: Requester, until: float, chance: random.Random) -> None:
        while (began := time.monotonic()) < until:
            self._number += 1
            [name] = chance.choices(list(self._shapes), [shape.weight for shape in self._shapes.values()])
            await self._one(requester, name, f"task {self._number}", chance)
            await asyncio.sleep(max(0.0, began + WORKERS / self._a_second - time.monotonic()))

    async def _one(self, requester: Requester, name: str, key: str, chance: random.Random) -> None:
        shape = self._shapes[name]
        asked = shape.make(chance, key)
        task = await self._patient(
            lambda: requester.submit(
                self._models[shape.pool],
                asked,
                max_tokens=shape.max_tokens,
                sampling=SamplingAsked(min_p_micros=0),
                deadline_s=shape.deadline_s,
                request_key=key,
            )
        )
        self.submitted[task] = name
        if shape.cancel_within_s is not None:
            await asyncio.sleep(chance.uniform(0, shape.cancel_within_s))
            await self._patient(lambda: requester.cancel(task))
        self._note(await self._patient(lambda: requester.result(task)))

    def _note(self, view: TaskView) -> None:
        if view.task_id in self.ends:
            self.twice.append(view.task_id)
        self.ends[view.task_id] = view.state
        if view.state is TaskState.FAILED and not view.detail:
            self.untold.append(view.task_id)

    async def _patient(self, ask):
        """Until the coordinator answers."""
        while True:
            try:
                return await ask()
            except (LinkError, Refused, OSError):
                await asyncio.sleep(RETRY_S)

    # ------------------------------------------------------------------ the count

    def faults(self, paid: list[str]) -> list[str]:
        """Where the count does not come out even; `paid` has an entry for each payment."""
        settled = {task for task, state in self.ends.items() if state is TaskState.SETTLED}
        payments = Counter(paid)
        named = {
            "submitted without an end": self.submitted.keys() - self.ends.keys(),
            "ended twice": self.twice,
            "settled and not paid": settled - payments.keys(),
            "paid and not settled": payments.keys() - settled,
            "paid twice": [task for task, count in payments.items() if count > 1],
            "failed without a word": self.untold,
        }
        return [f"{what}: {sorted(tasks)}" for what, tasks in named.items() if tasks]

    def table(self) -> dict[str, Counter[str]]:
        """Shape → how its tasks ended."""
        found: dict[str, Counter[str]] = {}
        for task, name in self.submitted.items():
            state = self.ends.get(task)
            found.setdefault(name, Counter())[state.value if state else "open"] += 1
        return found
