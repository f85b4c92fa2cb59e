"""How much memory the processes of a sandbox use, for machines without a memory cgroup."""

from __future__ import annotations

import re
from pathlib import Path

from agent.edges.sandbox.processes import PROC, tree

_RESIDENT = re.compile(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB", re.MULTILINE)
_PROPORTIONAL = re.compile(r"^(?:Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB", re.MULTILINE)


def used_bytes(init_pid: int, worth_bytes: int, proc: Path = PROC) -> int:
    """Anonymous, shared and swapped memory of `init_pid` and all below it.

    Pages of files, such as the model's, do not count: the kernel can drop them. Where the plain sum exceeds
    `worth_bytes`, pages shared after a fork are counted once (PSS), which costs the kernel a walk of the page tables.
    """
    pids = list(tree(init_pid, proc))
    resident = sum(_sum(proc / str(pid) / "status", _RESIDENT) or 0 for pid in pids)
    if resident <= worth_bytes:
        return resident
    return sum(_proportional(pid, proc) for pid in pids)


def _proportional(pid: int, proc: Path) -> int:
    exact = _sum(proc / str(pid) / "smaps_rollup", _PROPORTIONAL)
    # A process may hide its maps by making itself undumpable, but not its status.
    return exact if exact is not None else _sum(proc / str(pid) / "status", _RESIDENT) or 0


def _sum(path: Path, pattern: re.Pattern[str]) -> int | None:
    try:
        return sum(map(int, pattern.findall(path.read_text()))) << 10
    except OSError:
        return None
