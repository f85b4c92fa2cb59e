"""What is read, of whom, and how much of it may grow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from tests.chaos.traces import own_cgroups
from tests.soak.verdict import Rule

MIB = 1 << 20
KEPT_S = 60.0
"""`proof.retention_s` of the nodes."""
SWEPT_S = KEPT_S + 600.0
"""And when their transcripts are gone: they are swept every ten minutes."""
FEW = 8

NODE = {
    "memory, resident": Rule("MiB", 3.0),
    "memory, proportional": Rule("MiB", 3.0),
    "descriptors": Rule("", 4, lowest_of=FEW),
    "threads": Rule("", 2, lowest_of=FEW),
    "processes below": Rule("", 1),
    "asyncio tasks": Rule("", 4, lowest_of=FEW),
    "Python objects": Rule("", 4000),
    "database": Rule("MiB", 0.5, a_task=8 / 1024),
    "write-ahead log": Rule("MiB", 1.0),
    "transcripts": Rule("MiB", 0.5, a_task=4 / 1024, kept_s=SWEPT_S),
    "cgroups": Rule("", 1),
    "sockets and temporary files": Rule("", 2),
}
"""A node keeps a line of its ledger with the bundle that proves it for every task that was paid, and nothing else.
Descriptors and tasks follow the load: a connection an attempt, and some more to a coordinator that is cut off."""

COORDINATOR = {
    "memory, resident": Rule("MiB", 4.0, a_task=12 / 1024),
    "memory, proportional": Rule("MiB", 4.0, a_task=12 / 1024),
    "descriptors": Rule("", 4, lowest_of=FEW),
    "threads": Rule("", 2, lowest_of=FEW),
    "asyncio tasks": Rule("", 4, lowest_of=FEW),
    "on disk": Rule("MiB", 1.0, a_task=24 / 1024),
    "write-ahead log": Rule("MiB", 1.0),
}
"""The embedded coordinator forgets no task: what may grow is what one task is to it."""


def of_process(pid: int, told: Path) -> Iterator[tuple[str, float]]:
    """Gauges of a process that runs `tests.soak.watched` with `told` as its file; nothing when it is gone."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        rollup = _rollup(pid)
        yield "memory, resident", rollup["Rss"] / 1024
        yield "memory, proportional", rollup["Pss"] / 1024
        yield "descriptors", process.num_fds()
        yield "threads", process.num_threads()
        yield "processes below", len(process.children(recursive=True))
    with contextlib.suppress(OSError, ValueError):
        inner = json.loads(told.read_bytes())
        told.unlink()
        yield "asyncio tasks", inner["tasks"]
        yield "Python objects", inner["objects"]


def ask_inner(pid: int) -> None:
    """Have the process write what only it can count. One that has not come so far yet would die of the question."""
    with contextlib.suppress(OSError, StopIteration):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        caught = int(next(line for line in status if line.startswith("SigCgt")).split()[1], 16)
        if caught >> (signal.SIGUSR1 - 1) & 1:
            os.kill(pid, signal.SIGUSR1)


def of_node_disk(state: Path) -> Iterator[tuple[str, float]]:
    yield "database", _bytes(path for path in state.glob("*.db*") if not path.name.endswith(("-wal", "-shm"))) / MIB
    yield "write-ahead log", _bytes(state.glob("*.db-wal")) / MIB
    yield "transcripts", _bytes(state.glob("transcripts*/**/*")) / MIB


def of_coordinator_disk(state: Path) -> Iterator[tuple[str, float]]:
    logs = list(state.glob("*-wal"))
    yield "on disk", (_bytes(state.rglob("*")) - _bytes(logs)) / MIB
    yield "write-ahead log", _bytes(logs) / MIB


def of_places(runtime: Path, temporary: Path) -> Iterator[tuple[str, float]]:
    """What a node leaves about: its cgroups, and what lies in its runtime and temporary directories."""
    yield "cgroups", len(own_cgroups(runtime))
    yield "sockets and temporary files", sum(1 for place in (runtime, temporary) for _ in place.rglob("*"))


def _rollup(pid: int) -> dict[str, int]:
    """KiB by name."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name.rstrip(":"): int(kib) for name, kib, _ in map(str.split, lines)}


def _bytes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
