"""Processes and their descendants."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_REAP_LIMIT_S = 5.0
"""What was killed is dead within milliseconds, unless it sits in a call that the kernel cannot interrupt."""


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


def cpu_s(pid: int, proc: Path = PROC) -> float:
    """Processor time, in seconds, of `pid`, of all below it, and of the dead that they have buried."""
    return sum(_ticks(proc / str(found) / "stat") for found in tree(pid, proc)) / os.sysconf("SC_CLK_TCK")


def _ticks(stat: Path) -> int:
    try:
        # After the name, which may contain anything: state is field 3; utime, stime, cutime and cstime are 14 to 17.
        return sum(map(int, stat.read_text().rpartition(")")[2].split()[11:15]))
    except OSError:
        return 0


def resident_bytes(pid: int, proc: Path = PROC) -> int:
    """Memory of `pid` and all below it that is in use now, files that they have mapped included; 0 once they are
    gone."""
    return sum(_pages(proc / str(found) / "statm") for found in tree(pid, proc)) * os.sysconf("SC_PAGE_SIZE")


def _pages(statm: Path) -> int:
    try:
        return int(statm.read_text().split()[1])  # proc(5): size, resident, …
    except OSError:
        return 0


def end_named(name: str, proc: Path = PROC) -> int:
    """Kill every process that was started under `name`; returns how many."""
    beginning = os.fsencode(name) + b"\0"
    numbered = [entry for entry in proc.iterdir() if entry.name.isdigit()]
    found = [int(entry.name) for entry in numbered if _command(entry).startswith(beginning)]
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def _command(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes()
    return b""


def exists(pid: int) -> bool:
    """Whether there is such a process, also where /proc hides those of others."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def reap(monitor: subprocess.Popen[bytes], pidfd: int, limit_s: float = _REAP_LIMIT_S) -> bool:
    """Wait until a killed monitor is dead, and `bury` what it left. Blocks for a bounded time; False when that was too
    short: then it dies, and closes what it holds open, when the kernel lets it."""
    try:
        monitor.wait(limit_s)
    except subprocess.TimeoutExpired:
        return False
    bury(monitor.pid, pidfd)
    return True


def bury(group: int, pidfd: int) -> None:
    """Take the exit statuses of what a dead monitor, whose process group this was, left to us.

    Orphans fall to process 1, which in a container may be the agent; then nobody else does it. `pidfd` is of one more
    process, or -1.
    """
    if os.getpid() != 1:
        return
    with contextlib.suppress(ChildProcessError):
        while os.waitid(os.P_PGID, group, os.WEXITED):
            pass
    if pidfd >= 0:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
