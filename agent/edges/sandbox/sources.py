"""Directories and files of the host that a sandbox is given."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.core.errors import SandboxError
from agent.edges.sandbox import host


def existing(source: Path) -> Path:
    """Where `source` really lies. Raises SandboxError when it is not there."""
    try:
        return source.resolve(strict=True)
    except OSError as error:
        raise SandboxError(f"{source} cannot be mounted: {error.strerror}") from error


def shareable(source: Path) -> Path:
    """Likewise, for a sandbox that runs as another user than ours: raises SandboxError when it could not read it."""
    path = existing(source)
    if not host.readable_by_all(path):
        raise SandboxError(f"the sandbox's user cannot read {path}", remedy=f"Allow it: `chmod -R a+rX '{path}'`")
    return path


def give(directory: Path, user_id: int, group_id: int) -> None:
    """Hand a directory of ours to the sandbox's user; root still reaches it. Never through a link.

    Raises SandboxError.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise SandboxError(f"socket directory {directory}: {error.strerror}") from error
    try:
        owner = os.fstat(fd).st_uid
        if owner not in (os.geteuid(), user_id) and owner not in host.SANDBOX_IDS:  # another backend's, before this one
            raise SandboxError(f"socket directory {directory} belongs to somebody else")
        os.fchown(fd, user_id, group_id)
        os.fchmod(fd, stat.S_IRWXU)
    finally:
        os.close(fd)
