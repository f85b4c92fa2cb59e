"""The same closed loop for every peer: customers who ask again as soon as they have their result.

Runs in the peers' environment, without this project.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import psutil


def cpu_s(pid: int) -> float:
    """Of the process and its children."""
    worker = psutil.Process(pid)
    times = [one.cpu_times() for one in (worker, *worker.children(recursive=True))]
    return sum(time.user + time.system for time in times)


async def customers(ask: Callable[[], Awaitable[object]], in_flight: int, tasks: int) -> list[float]:
    """Seconds of each of `tasks` tasks, `in_flight` at a time."""
    left, waits = tasks, []

    async def customer() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await ask()
            waits.append(time.perf_counter() - began)

    await asyncio.gather(*(customer() for _ in range(in_flight)))
    return waits


async def measured(ask: Callable[[], Awaitable[object]], worker_pid: int, in_flight: int, tasks: int) -> None:
    """Print the figures as one line of JSON."""
    await asyncio.wait_for(customers(ask, in_flight, max(20, tasks // 10)), 60)
    meter = Meter(worker_pid)
    meter.tell(await asyncio.wait_for(customers(ask, in_flight, tasks), 120))


class Meter:
    """From its making to `tell`."""

    def __init__(self, worker_pid: int) -> None:
        self._pid = worker_pid
        self._cpu_s, self._began = cpu_s(worker_pid), time.perf_counter()

    def tell(self, waits: list[float]) -> None:
        """Print the figures as one line of JSON."""
        took_s, used_s, ordered = time.perf_counter() - self._began, cpu_s(self._pid) - self._cpu_s, sorted(waits)
        figures = {
            "per_s": len(waits) / took_s,
            "p50_ms": ordered[len(waits) // 2] * 1000,
            "p99_ms": ordered[int(len(waits) * 0.99)] * 1000,
            "cpu_us": used_s / len(waits) * 1e6,
        }
        print(json.dumps(figures), flush=True)
