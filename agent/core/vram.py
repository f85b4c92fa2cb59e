"""Who uses more GPU memory than allowed. The kernel has no limit for it: the agent watches, and ends who is over."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agent.core.gpu import Gpu, GpuProcess, GpuReport
from agent.core.model import Value


class Claim(Value):
    """One sandbox with GPUs."""

    name: str
    gpus: tuple[str, ...]
    """UUIDs of GPUs and MIG slices."""
    pids: frozenset[int]
    """Of all its processes, as the host numbers them."""
    limit_bytes: int
    """On all its GPUs together."""


class Overuse(Value):
    """A claim that is over its limit."""

    name: str
    used_bytes: int
    limit_bytes: int

    def __str__(self) -> str:
        return f"used {self.used_bytes >> 20:,} MiB of GPU memory where {self.limit_bytes >> 20:,} are allowed"


def overuses(report: GpuReport, claims: Iterable[Claim]) -> tuple[Overuse, ...]:
    """Claims over their limits, by this snapshot. What the driver does not tell counts for nobody."""
    found = []
    for claim in claims:
        used_bytes = sum(user.memory_bytes or 0 for user in _users(report, claim.gpus) if user.pid in claim.pids)
        if used_bytes > claim.limit_bytes:
            found.append(Overuse(name=claim.name, used_bytes=used_bytes, limit_bytes=claim.limit_bytes))
    return tuple(found)


def unwatchable(report: GpuReport, gpus: Collection[str]) -> str:
    """Why what a process uses on one of these GPUs cannot be known; empty when it can."""
    for gpu in _holders(report, gpus):
        if gpu.fault is None and gpu.sample.processes is None:
            return gpu.absent.get("processes", "the driver lists no processes")
        if any(user.memory_bytes is None for user in gpu.sample.users):
            return "the driver lists processes without the memory that they use"
    return ""


def pids_on(report: GpuReport, gpus: Collection[str]) -> frozenset[int]:
    """Processes that use one of these GPUs."""
    return frozenset(user.pid for user in _users(report, gpus))


def _users(report: GpuReport, gpus: Collection[str]) -> Iterable[GpuProcess]:
    return (user for gpu in _holders(report, gpus) for user in gpu.sample.users)


def _holders(report: GpuReport, gpus: Collection[str]) -> Iterable[Gpu]:
    """The GPUs, and those whose slices are named: the driver lists a slice's processes with its card."""
    return (gpu for gpu in report.gpus if gpu.uuid in gpus or any(part.uuid in gpus for part in gpu.mig))
