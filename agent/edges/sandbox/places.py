"""The file systems that a sandbox may write to, held open from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.edges.sandbox.profile import OUT

_UNDER_CONSTRUCTION = "newroot"
"""Where bubblewrap keeps the sandbox's root while it mounts."""


class Filled(NamedTuple):
    """How much lies in file systems; bytes and files."""

    used_bytes: int
    files: int


class Places:
    """Descriptors of a sandbox's writable file systems. They keep what lies there after the sandbox's end."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        """`fds` maps paths inside to descriptors, which are ours from now on."""
        self._fds = dict(fds)

    @property
    def out(self) -> int | None:
        """Descriptor of /out, until closed."""
        return self._fds.get(OUT)

    def full(self) -> list[str]:
        """Those without room for one more page, or one more file."""
        return sorted(path for path, fd in self._fds.items() if _is_full(os.fstatvfs(fd)))

    def filled(self) -> Filled:
        """What lies in all of them together."""
        all_ = [os.fstatvfs(fd) for fd in list(self._fds.values())]
        return Filled(
            used_bytes=sum((s.f_blocks - s.f_bfree) * s.f_frsize for s in all_),
            files=sum(s.f_files - s.f_ffree for s in all_),
        )

    def close(self, *, keep_out: bool = False) -> None:
        """Let go of them, where `keep_out` says so all but /out. Idempotent, and good from any thread.

        Blocks for seconds where a program made millions of files, which the kernel now forgets one by one.
        """
        for path in [path for path in list(self._fds) if not (keep_out and path == OUT)]:
            if (fd := self._fds.pop(path, None)) is not None:
                os.close(fd)


def hold(init_pid: int, paths: tuple[str, ...], root: str = _UNDER_CONSTRUCTION) -> Places:
    """Open `paths` of the sandbox whose first process is held, by bubblewrap in the middle of mounting, when nothing of
    the program's has run: what lies there is what was mounted. `root` is where that process has the sandbox's root.

    Raises SandboxError."""
    with contextlib.ExitStack() as opened:
        fds = {path: _open(f"/proc/{init_pid}/root/{root}{path}", opened) for path in paths}
        opened.pop_all()
        return Places(fds)


def _open(path: str, stack: contextlib.ExitStack) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise SandboxError(f"the sandbox's file systems cannot be reached: {error.strerror}") from error
    stack.callback(os.close, fd)
    return fd


def _is_full(found: os.statvfs_result) -> bool:
    return found.f_bfree == 0 or (found.f_files > 0 and found.f_ffree == 0)
