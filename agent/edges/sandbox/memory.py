"""How much memory the processes of a sandbox use, for machines without a memory cgroup."""

from __future__ import annotations

import re
from pathlib import Path

from agent.edges.sandbox.places import Filled
from agent.edges.sandbox.processes import PROC, tree

FILE_BYTES = 1024
"""Kernel memory of one file on a tmpfs: its inode and its name take some 900 bytes."""
_FIELD = re.compile(r"^(RssAnon|RssShmem|VmSwap):\s+(\d+) kB", re.MULTILINE)
_PROPORTIONAL = re.compile(r"^(Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB", re.MULTILINE)
_SHARED = ("RssShmem", "Pss_Shmem")


def used_bytes(init_pid: int, worth_bytes: int, filled: Filled, proc: Path = PROC) -> int:
    """Anonymous, shared and swapped memory of `init_pid` and all below it, and what they `filled` of tmpfs.

    Pages of files, such as the model's, do not count: the kernel can drop them. What is both mapped and in a tmpfs
    counts once, as do, where the plain sum exceeds `worth_bytes`, pages shared after a fork (PSS), which costs the
    kernel a walk of the page tables.
    """
    pids = list(tree(init_pid, proc))
    resident = _total([_sums(proc / str(pid) / "status", _FIELD) or (0, 0) for pid in pids], filled)
    if resident <= worth_bytes:
        return resident
    return _total([_proportional(pid, proc) for pid in pids], filled)


def _total(sums: list[tuple[int, int]], filled: Filled) -> int:
    private, shared = (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0)
    return private + max(shared, filled.used_bytes) + filled.files * FILE_BYTES


def _proportional(pid: int, proc: Path) -> tuple[int, int]:
    exact = _sums(proc / str(pid) / "smaps_rollup", _PROPORTIONAL)
    # A process may hide its maps by making itself undumpable, but not its status.
    return exact if exact is not None else _sums(proc / str(pid) / "status", _FIELD) or (0, 0)


def _sums(path: Path, pattern: re.Pattern[str]) -> tuple[int, int] | None:
    """(private, shared) bytes; None for a process that is gone or hides."""
    try:
        found = pattern.findall(path.read_text())
    except OSError:
        return None
    shared = sum(int(kib) for name, kib in found if name in _SHARED)
    return (sum(int(kib) for _, kib in found) - shared) << 10, shared << 10
