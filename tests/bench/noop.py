"""Tasks that cost nothing to compute: what is left is ours."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import NamedTuple

from agent.core.model import ChatInput, Message
from agent.devnet.coordinator import Coordinator
from agent.devnet.core import asking
from agent.devnet.core.records import ENDED, TaskState
from agent.devnet.streams import Place, StateSeen
from tests import builders
from tests.bench.node import BenchNode, coordinator, percentile

_ASKED = asking.TaskAsked(
    model_digest=builders.MODEL, input=ChatInput(messages=(Message(role="user", content="hi"),)), max_tokens=16
)


class Rate(NamedTuple):
    """What `in_flight` customers got, each asking again as soon as it had its result."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Of the worker process, a task."""
    memory_mib: tuple[float, ...] = ()
    """Of the worker, after each tenth of the tasks."""


async def ask(running: Coordinator) -> float:
    """One task from its submission to its receipt, in seconds. The coordinator's own methods: no HTTP in between."""
    desk, began = running.desk, time.perf_counter()
    asked = asking.submit(desk.book, desk.when(), _ASKED, f"t-{secrets.token_hex(12)}", secrets.token_hex(32))
    task_id = await desk.carry_out(asked)
    queued = StateSeen(state=TaskState.QUEUED)
    async for event in desk.streams.follow(task_id, queued, Place(), 30.0):
        if isinstance(event, StateSeen) and event.state in ENDED:
            if event.state is not TaskState.SETTLED:
                raise RuntimeError(f"a no-op task ended {event.state}: {event.detail}")
            return time.perf_counter() - began
        if event is None:
            raise RuntimeError("a no-op task hangs")
    raise RuntimeError("a task's events end with its end")


async def _customers(running: Coordinator, in_flight: int, tasks: int) -> list[float]:
    left = tasks
    waits: list[float] = []

    async def customer() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            waits.append(await ask(running))

    await asyncio.gather(*(customer() for _ in range(in_flight)))
    return waits


async def measure(
    transport: str, in_flight: int, tasks: int, *, profile: str = "", turns: int = 1, max_queued: int = 10_000
) -> Rate:
    """A coordinator here, an agent in a process of its own, and `tasks` tasks after a warm-up."""
    async with coordinator() as running:
        node = BenchNode(running, transport=transport)
        try:
            node.start(
                "-m", "tests.bench.noop_worker", str(node.config), str(in_flight), *([profile] if profile else [])
            )
            await node.beaten()
            await _customers(running, in_flight, max(20, tasks // 10))
            cpu_s, began = node.cpu_s(), time.perf_counter()
            waits: list[float] = []
            memory = []
            for _ in range(turns):
                waits += await _customers(running, in_flight, tasks // turns)
                memory.append(node.ps.memory_info().rss / (1 << 20))
            took_s, cpu_s = time.perf_counter() - began, node.cpu_s() - cpu_s
            node.stop()
        finally:
            node.close()
    return Rate(
        per_s=len(waits) / took_s,
        p50_ms=percentile(waits, 0.5) * 1000,
        p99_ms=percentile(waits, 0.99) * 1000,
        cpu_us=cpu_s / len(waits) * 1e6,
        memory_mib=tuple(memory),
    )
