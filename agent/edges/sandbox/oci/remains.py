"""What the kernel tells of a container whose first process has just ended, before its engine tidies up."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from agent.edges.sandbox.cgroups import ROOT, memberships


class Remains(NamedTuple):
    """None where it was too late, or this kernel does not tell."""

    oom_killed: bool | None = None
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None


class Places(NamedTuple):
    """The cgroup directories of one container; None where there is none."""

    version: int
    memory: Path | None
    cpu: Path | None


def places(theirs: str, ours: str, root: Path = ROOT) -> Places:
    """Where a process is accounted by itself, given its /proc/PID/cgroup and our own: an engine that has no cgroup to
    give leaves it in ours."""
    paths, shared = memberships(theirs), memberships(ours)
    version = 2 if (root / "cgroup.controllers").exists() else 1
    own = {c: path.lstrip("/") for c, path in paths.items() if shared.get(c) != path}
    if version == 2:
        directory = root / own[""] if "" in own else None
        return Places(2, directory, directory)
    memory, cpu = (root / c / own[c] if c in own else None for c in ("memory", "cpuacct"))
    return Places(1, memory, cpu)


def read(where: Places) -> Remains:
    """What is left to read."""
    if where.version == 2:
        return Remains(
            _killed(where.memory, "memory.events"),
            _microseconds(where.cpu),
            _number(where.memory, "memory.peak"),
        )
    nanoseconds = _number(where.cpu, "cpuacct.usage")
    return Remains(
        _killed(where.memory, "memory.oom_control"),
        None if nanoseconds is None else nanoseconds / 1e9,
        _number(where.memory, "memory.max_usage_in_bytes"),
    )


def _text(directory: Path | None, name: str) -> str | None:
    if directory is not None:
        with contextlib.suppress(OSError):
            return (directory / name).read_text()
    return None


def _number(directory: Path | None, name: str) -> int | None:
    text = _text(directory, name)
    return None if text is None else int(text)


def _counts(directory: Path | None, name: str) -> dict[str, int]:
    lines = (_text(directory, name) or "").splitlines()
    return {key: int(count) for key, _, count in (line.partition(" ") for line in lines)}


def _killed(directory: Path | None, name: str) -> bool | None:
    counts = _counts(directory, name)
    return counts["oom_kill"] > 0 if "oom_kill" in counts else None


def _microseconds(directory: Path | None) -> float | None:
    counts = _counts(directory, "cpu.stat")
    return counts["usage_usec"] / 1e6 if "usage_usec" in counts else None
