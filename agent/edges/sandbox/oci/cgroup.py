"""The cgroup that an engine gave a container: what it holds the container to, and what it counted."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.edges.sandbox.cgroups import ROOT, memberships
from agent.ports import Limits

_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")


class Remains(NamedTuple):
    """None where it was too late, or this kernel does not tell."""

    oom_killed: bool | None = None
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None


class Places(NamedTuple):
    """Where one container is accounted."""

    version: int
    directories: Mapping[str, Path]
    """By controller; one that is missing is the agent's own, or nobody's."""


def places(theirs: str, ours: str, root: Path = ROOT) -> Places:
    """Where a process is accounted by itself, given its /proc/PID/cgroup and our own: an engine that has no cgroup to
    give leaves it in ours."""
    paths, shared = memberships(theirs), memberships(ours)
    own = {c: path.lstrip("/") for c, path in paths.items() if shared.get(c) != path}
    if (root / "cgroup.controllers").exists():
        return Places(2, dict.fromkeys(_CONTROLLERS, root / own[""]) if "" in own else {})
    return Places(1, {c: root / c / own[c] for c in _CONTROLLERS if c in own})


def require_held(where: Places, limits: Limits) -> None:
    """Raises SandboxError when the kernel does not hold the container to one of `limits`, whatever its engine says."""
    wanted = {"memory": limits.memory_bytes, "pids": limits.pids, "cpu": limits.cpus}
    for limit, value in wanted.items():
        held = _HELD[where.version](where, limit)
        # Memory is held in whole pages, and processors in whole microseconds.
        if value is not None and (held is None or held > value * 1.001):
            raise SandboxError(
                f"a limit of {limit} is not enforced: the engine took it, and the kernel "
                + ("knows of none" if held is None else f"knows of {held:g}"),
                remedy="See `gpu-agent doctor`; the engine's own configuration may switch cgroups off",
            )


def read(where: Places) -> Remains:
    """What is left to read."""
    if where.version == 2:
        used_us = _counts(where, "cpu", "cpu.stat").get("usage_usec")
        return Remains(
            _killed(where, "memory.events"),
            None if used_us is None else used_us / 1e6,
            _number(where, "memory", "memory.peak"),
        )
    used_ns = _number(where, "cpuacct", "cpuacct.usage")
    return Remains(
        _killed(where, "memory.oom_control"),
        None if used_ns is None else used_ns / 1e9,
        _number(where, "memory", "memory.max_usage_in_bytes"),
    )


def _held_1(where: Places, limit: str) -> float | None:
    if limit != "cpu":
        return _number(where, limit, {"memory": "memory.limit_in_bytes", "pids": "pids.max"}[limit])
    quota, period = (_number(where, "cpu", f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota is not None and period and quota > 0 else None


def _held_2(where: Places, limit: str) -> float | None:
    if limit != "cpu":
        return _number(where, limit, f"{limit}.max")
    quota, _, period = (_text(where, "cpu", "cpu.max") or "max").partition(" ")
    return int(quota) / int(period) if quota != "max" else None


_HELD = {1: _held_1, 2: _held_2}


def _text(where: Places, controller: str, name: str) -> str | None:
    if controller in where.directories:
        with contextlib.suppress(OSError):
            return (where.directories[controller] / name).read_text()
    return None


def _number(where: Places, controller: str, name: str) -> int | None:
    """None also for a limit that is not set."""
    text = (_text(where, controller, name) or "max").strip()
    return None if text == "max" else int(text)


def _counts(where: Places, controller: str, name: str) -> dict[str, int]:
    lines = (_text(where, controller, name) or "").splitlines()
    return {key: int(count) for key, _, count in (line.partition(" ") for line in lines)}


def _killed(where: Places, name: str) -> bool | None:
    counts = _counts(where, "memory", name)
    return counts["oom_kill"] > 0 if "oom_kill" in counts else None
