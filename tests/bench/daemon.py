"""The daemon by itself: how it starts, and what it costs while nobody asks anything."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from agent.devnet.coordinator import Coordinator
from tests.bench.node import BenchNode, coordinator
from tests.bench.table import Row, at_most
from tests.fakes.nvml.build import Builder, compiler
from tests.fakes.nvml.scenario import load

GOAL_MB = 60.0
MB = 1_000_000
SETTLED_S = 2.0
LAST_WORDS_S = 0.5
"""By then the coordinator has read what a killed agent had sent."""
EIGHT_GPUS = Path(__file__).parent.parent / "hosts" / "h200x8.ini"


async def idle(watch_s: float) -> list[Row]:
    """Memory of the daemon and its children without an engine, its CPU, and the time to its first beat."""
    async with coordinator() as running:
        node = BenchNode(running)
        starts = []
        try:
            for _ in range(3):  # the first one enrols and compiles
                starts.append(await _start(node))
                if len(starts) < 3:
                    node.stop()
            await asyncio.sleep(SETTLED_S)
            cpu_s = _family_cpu_s(node.ps)
            await asyncio.sleep(watch_s)
            cpu_s = _family_cpu_s(node.ps) - cpu_s
            resident, own = resident_bytes(_family(node.ps)) / MB, _own_bytes(_family(node.ps)) / MB
        finally:
            node.close()
        return [
            at_most("exec to first beat at the coordinator", min(starts[1:]), 1.0, "s", 2),
            Row("… of the very first start, which enrols", f"{starts[0]:.2f} s"),
            at_most("idle memory, resident, no GPU", resident, GOAL_MB, "MB"),
            Row("… of it not shared with others", f"{own:.1f} MB"),
            *await _with_gpus(running),
            at_most(f"idle CPU over {watch_s:g} s", cpu_s / watch_s * 100, 0.5, "% of a core", 2),
        ]


async def _with_gpus(running: Coordinator) -> list[Row]:
    """The daemon and the child that reads eight GPUs."""
    if compiler() is None:
        return [Row("idle memory with 8 GPUs", "skipped: no C compiler for the fake driver")]
    with tempfile.TemporaryDirectory() as home:
        build, driver = Path(home) / "build", Path(home) / "driver"
        build.mkdir()
        driver.mkdir()
        placed = Builder(build).place(load(EIGHT_GPUS), driver)
        node = BenchNode(running, gpu=f'library = "{placed.library}"')
        try:
            await _start(node)  # enrols, which leaves more behind
            node.stop()
            await _start(node)
            await asyncio.sleep(SETTLED_S)
            family = _family(node.ps)
            resident = resident_bytes(family) / MB
            each = " + ".join(f"{one.memory_info().rss / MB:.1f}" for one in family)
        finally:
            node.close()
    return [
        at_most("idle memory, resident, 8 GPUs: with the child that reads them", resident, GOAL_MB, "MB"),
        Row("… each by itself, what both share counted twice", f"{each} MB"),
    ]


async def _start(node: BenchNode) -> float:
    """Seconds until the coordinator has heard the first beat."""
    await asyncio.sleep(LAST_WORDS_S)
    node.forget()
    began = time.perf_counter()
    node.start("-m", "agent", "run", "--config", str(node.config))
    await node.beaten(pools=0)
    return time.perf_counter() - began


def resident_bytes(family: Iterable[psutil.Process]) -> int:
    """What they keep in memory together: a page of a file that several of them map counts once.

    Not the proportional size, which grows smaller by whatever else runs the same Python on this machine.
    """
    own, shared = 0, {}
    for process in family:
        for place, resident, common in _mappings(process.pid):
            own += resident - common
            shared[place] = max(shared.get(place, 0), common)
    return own + sum(shared.values())


def _mappings(pid: int) -> Iterable[tuple[str, int, int]]:
    """(file and place in it, resident, of it shared), in bytes, for each mapping."""
    place, counts = "", {}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            place, counts = " ".join(rest[1:4]), {}
        elif name in ("Rss:", "Shared_Clean:", "Shared_Dirty:"):
            counts[name] = int(rest[0]) << 10
            if len(counts) == 3:
                yield place, counts["Rss:"], counts["Shared_Clean:"] + counts["Shared_Dirty:"]


def _own_bytes(family: Iterable[psutil.Process]) -> int:
    return sum(one.memory_full_info().uss for one in family)


def _family(daemon: psutil.Process) -> list[psutil.Process]:
    return [daemon, *daemon.children(recursive=True)]


def _family_cpu_s(daemon: psutil.Process) -> float:
    times = [one.cpu_times() for one in _family(daemon)]
    return sum(one.user + one.system for one in times)
