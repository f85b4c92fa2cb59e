"""Whether an engine that ended has really given back its GPU memory: readings in, a judgement out.

That its processes are gone is not enough: a driver that hangs on a dying one keeps its memory, which then belongs to
no process that it lists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from agent.core.gpu import Gpu, GpuReport
from agent.core.model import Reason, Value
from agent.core.text import span

LIMIT_S = 30.0
"""After which memory that was not given back is told of. A process that ends well frees it within a second."""
_NOISE_BYTES = 64 << 20
"""What the driver itself takes more or less of meanwhile."""
UNLOADS = frozenset(
    {Reason.PAUSED, Reason.OUTSIDE_SCHEDULE, Reason.OWNER_PROGRAM, Reason.OWNER_ACTIVE, Reason.ON_BATTERY}
    | {Reason.GPU_IN_USE}
)
"""Reasons for which the owner wants the memory, and not only that nothing is computed."""


class Holding(Value):
    """What an engine holds of its GPUs."""

    bytes_by_gpu: dict[str, int]
    """UUID → what its processes hold there as the driver lists them, or what was expected where it does not."""
    pids: frozenset[int]
    untold: dict[str, int] = msgspec.field(default_factory=dict)
    """UUID → memory in use that belongs to no listed process; missing where the driver does not tell."""

    @property
    def total_bytes(self) -> int:
        """On all GPUs."""
        return sum(self.bytes_by_gpu.values())


class Taken(Value):
    """How much memory an engine was expected to take, and does."""

    expected_bytes: int | None = None
    measured_bytes: int | None = None


class Released(Value):
    """How far it is."""

    held_bytes: int
    released_bytes: int
    """By what the driver told last."""
    seconds: float
    """Since the engine was told to end, until all was given back or until now."""
    done: bool
    detail: str = ""
    """What is still held, and by whom, once that takes too long."""


def untold_bytes(report: GpuReport, uuids: Iterable[str]) -> dict[str, int]:
    """Memory in use on each GPU that belongs to no process that the driver lists."""
    found = {}
    for gpu in _cards(report, uuids):
        users, used = gpu.sample.users, gpu.sample.memory_used_bytes
        listed = [user.memory_bytes for user in users if user.memory_bytes is not None]
        if gpu.sample.processes is not None and used is not None and len(listed) == len(users):
            found[gpu.uuid] = max(used - sum(listed), 0)
    return found


def judge(holding: Holding, report: GpuReport, *, ended: bool, seconds: float) -> Released:
    """By one reading, `seconds` after the engine was told to end; `ended`: its processes are gone, as the agent sees
    it. A GPU that cannot be read has given nothing back."""
    still = _listed(holding, report)
    leaked = _leaked(holding, report)
    unread = set(holding.bytes_by_gpu) - {uuid for uuid in holding.bytes_by_gpu if _readable(report, uuid)}
    kept = min(sum(still.values()) + leaked + sum(holding.bytes_by_gpu[uuid] for uuid in unread), holding.total_bytes)
    done = ended and not still and not unread and leaked <= max(_NOISE_BYTES, holding.total_bytes // 10)
    detail = "" if done or seconds < LIMIT_S else _why(still, leaked, unread, seconds, ended=ended)
    return Released(
        held_bytes=holding.total_bytes,
        released_bytes=holding.total_bytes if done else holding.total_bytes - kept,
        seconds=seconds,
        done=done,
        detail=detail,
    )


def _listed(holding: Holding, report: GpuReport) -> dict[int, int]:
    """Of its processes, those that the driver still lists, and what they hold."""
    found: dict[int, int] = {}
    for gpu in _cards(report, holding.bytes_by_gpu):
        for user in gpu.sample.users:
            if user.pid in holding.pids:
                found[user.pid] = found.get(user.pid, 0) + (user.memory_bytes or 0)
    return found


def _leaked(holding: Holding, report: GpuReport) -> int:
    now = untold_bytes(report, holding.untold)
    return sum(max(now[uuid] - before, 0) for uuid, before in holding.untold.items() if uuid in now)


def _readable(report: GpuReport, uuid: str) -> bool:
    return any(gpu.fault is None for gpu in _cards(report, (uuid,)))


def _cards(report: GpuReport, uuids: Iterable[str]) -> list[Gpu]:
    """Those GPUs, and those whose slices are named: the driver lists a slice's processes with its card."""
    wanted = set(uuids)
    return [gpu for gpu in report.gpus if gpu.uuid in wanted or any(part.uuid in wanted for part in gpu.mig)]


def _why(still: dict[int, int], leaked: int, unread: Collection[str], seconds: float, *, ended: bool) -> str:
    since = f"{span(seconds)} after the engine was told to end"
    if still:
        who = ", ".join(map(str, sorted(still)))
        return f"{since} the driver still lists its process {who} with {sum(still.values()) >> 20:,} MiB"
    if unread:
        return f"{since} {', '.join(sorted(unread))} cannot be read, so whether its memory is free is not known"
    if not ended:
        return f"{since} it has not ended"
    return f"{since} {leaked >> 20:,} MiB more than before belong to no process that the driver lists: reset the GPU"
