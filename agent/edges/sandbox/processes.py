"""Processes and their descendants."""

from __future__ import annotations

import contextlib
import os
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
