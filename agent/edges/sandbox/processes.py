"""Processes and their descendants, by /proc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def tree(pid: int, proc: Path = PROC) -> Iterator[int]:
    """`pid` and its descendants. Orphans inside a pid namespace become children of its first process."""
    yield pid
    try:
        threads = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return
    for thread in threads:
        try:
            children = (thread / "children").read_text()
        except OSError:
            continue
        for child in children.split():
            yield from tree(int(child), proc)
