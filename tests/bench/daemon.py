"""The daemon by itself: how it starts, and what it costs while nobody asks anything."""

from __future__ import annotations

import asyncio
import time

import psutil

from tests.bench.node import BenchNode, coordinator
from tests.bench.table import Row, at_most


async def idle(watch_s: float) -> list[Row]:
    """Memory of the daemon and its children without an engine, its CPU, and the time to its first beat."""
    async with coordinator() as running:
        node = BenchNode(running)
        starts = []
        try:
            for _ in range(3):  # the first one enrols and compiles
                node.forget()
                began = time.perf_counter()
                node.start("-m", "agent", "run", "--config", str(node.config))
                await node.beaten(pools=0)
                starts.append(time.perf_counter() - began)
                if len(starts) < 3:
                    node.stop()
            await asyncio.sleep(2)
            cpu_s = _family_cpu_s(node.ps)
            await asyncio.sleep(watch_s)
            cpu_s = _family_cpu_s(node.ps) - cpu_s
            family = [node.ps, *node.ps.children(recursive=True)]
            own = sum(one.memory_full_info().uss for one in family) / (1 << 20)
            resident = sum(one.memory_info().rss for one in family) / (1 << 20)
            names = ", ".join(one.name() for one in family)
        finally:
            node.close()
    return [
        at_most("exec to first beat at the coordinator", min(starts[1:]), 1.0, "s", 2),
        Row("… of the very first start, which enrols", f"{starts[0]:.2f} s"),
        at_most(f"idle memory, resident ({names})", resident, 60.0, "MiB"),
        Row("… of it not shared with others", f"{own:.1f} MiB"),
        at_most(f"idle CPU over {watch_s:g} s", cpu_s / watch_s * 100, 0.5, "% of a core", 2),
    ]


def _family_cpu_s(daemon: psutil.Process) -> float:
    times = [one.cpu_times() for one in (daemon, *daemon.children(recursive=True))]
    return sum(one.user + one.system for one in times)
