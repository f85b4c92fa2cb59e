"""Puts limits on a sandbox from outside and takes them off again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from agent.core.errors import SandboxError
from agent.edges.sandbox import rlimits
from agent.edges.sandbox.cgroups import Group
from agent.edges.sandbox.mechanisms import WATCH_PERIOD_S, Means
from agent.edges.sandbox.memory import used_bytes
from agent.edges.sandbox.places import Places
from agent.edges.sandbox.processes import cpu_s
from agent.ports import Limits, Used

OOM_SCORE_ADJ = 900
"""When the whole machine runs out of memory, a task goes before anything of the owner's."""


class Confinement:
    """The limits of one sandbox, from before its program runs until after it is dead."""

    def __init__(self, limits: Limits, means: Means, group: Group | None, user_id: int | None) -> None:
        """`user_id` is the host user of the sandbox where that is not the agent's own."""
        self._user_id = user_id
        self._limits = limits
        self._means = means
        self._group = group
        self._pid = 0
        self._memory_peak_bytes: int | None = None
        self._cpu_s: float | None = None

    def admit(self, pid: int) -> None:
        """Put the held process, and with it all that it will start, under the limits. Raises SandboxError, also when
        that process turns out to be root on the host."""
        self._pid = pid
        try:
            refuse_root(pid)
            if self._group is not None:
                self._group.admit(pid)
            if self._means.pinned_threads is not None:
                os.sched_setaffinity(pid, _some_cpus(self._means.pinned_threads, pid))
            rlimits.lower(pid, self._rlimits(), self._user_id)
        except OSError as error:
            raise SandboxError(f"the sandbox's limits could not be set: {error}") from error
        # A wish, not a promise: not every kernel lets an unprivileged agent write here.
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE_ADJ))

    async def watch(self, places: Places, exceeded: Callable[[], None]) -> None:
        """Where no cgroup does: measure what is used, and call `exceeded` once that is more memory than allowed."""
        while self._group is None:
            await asyncio.sleep(WATCH_PERIOD_S)
            used = await asyncio.to_thread(self._measure, places)
            if self._means.watched_memory_bytes is not None and used > self._means.watched_memory_bytes:
                exceeded()
                return

    def last_look(self) -> None:
        """Before the sandbox is killed: the kernel forgets the time of those that nobody buries."""
        if self._group is None:
            self._note_cpu()

    def used(self, wall_s: float) -> Used:
        """What it used; without a cgroup, as last measured, which a short program never was. Call before `release`."""
        if self._group is None:
            return Used(wall_s=wall_s, cpu_s=self._cpu_s, memory_peak_bytes=self._memory_peak_bytes)
        return Used(wall_s=wall_s, cpu_s=self._group.cpu_s(), memory_peak_bytes=self._group.memory_peak_bytes())

    def _measure(self, places: Places) -> int:
        """Bytes of memory in use."""
        used = used_bytes(self._pid, self._means.watched_memory_bytes or sys.maxsize, places.filled())
        self._memory_peak_bytes = max(self._memory_peak_bytes or 0, used)
        self._note_cpu()
        return used

    def _note_cpu(self) -> None:
        # None rather than nothing: of the dead that are forgotten already it cannot be told.
        self._cpu_s = max(self._cpu_s or 0.0, cpu_s(self._pid)) or None

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something inside for its memory limit."""
        return self._group is not None and self._group.out_of_memory()

    def release(self) -> None:
        """Take away what is left once the sandbox is dead."""
        if self._group is not None:
            self._group.remove()

    def _rlimits(self) -> dict[int, int]:
        limits = {
            # 1, not 0: a core_pattern that is a pipe ignores 0.
            resource.RLIMIT_CORE: 1,
            resource.RLIMIT_NOFILE: self._limits.open_files,
            resource.RLIMIT_FSIZE: self._limits.file_bytes,
            # POSIX message queues are kernel memory that no tmpfs bounds.
            resource.RLIMIT_MSGQUEUE: 0,
        }
        if self._means.own_pids is not None:
            limits[resource.RLIMIT_NPROC] = self._means.own_pids
        return limits


def _some_cpus(count: int, pid: int) -> list[int]:
    """Starting anywhere, so that sandboxes do not all crowd on the first cpus."""
    cpus = sorted(os.sched_getaffinity(0))
    first = pid % len(cpus)
    return (cpus[first:] + cpus[:first])[:count]


def refuse_root(pid: int) -> None:
    """As root on the host a sandbox could undo most of itself, whatever it believes to be inside."""
    ids = re.search(r"^Uid:\s+(.+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if ids is None or "0" in ids[1].split():
        raise SandboxError("the sandbox would run as root of this machine, which is refused")
