"""Files that are whole or absent, whatever happens: written beside their place, flushed, then put there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from pathlib import Path

from agent.core.model import LeaseKey

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Nothing can be written, and that may pass: a full disk, a full quota, a file system that was made read-only."""
REMEDY_FOR_ROOM = "Free space on that disk, or mount it writable again: the agent goes on by itself"
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


def create_file(path: Path, content: bytes) -> None:
    """Write a new file, mode 0600, durable when it returns. Raises FileExistsError, else OSError.

    A hard link puts it in place: unlike a rename it cannot replace a file that another process made meanwhile.
    """
    draft = _draft(path, content)
    try:
        os.link(draft, path)
    finally:
        draft.unlink()
    sync_directory(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write `path`, mode 0600, replacing what is there; durable when it returns. Raises OSError."""
    draft = _draft(path, content)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _draft(path: Path, content: bytes) -> Path:
    """A flushed temporary file beside `path`; mkstemp gives it mode 0600 and a name that nobody else has."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def make_private_directory(path: Path) -> None:
    """Make `path` and its parents; the last one is ours alone (0700). One that exists is left as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def sync_directory(path: Path) -> None:
    """Flush a directory's entries: without it a crash may lose a file that was itself flushed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush what was written to a file by whomever."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def attempt_name(key: LeaseKey) -> str:
    """What one attempt's file is called. A task id that is no plain word is replaced by its digest: it comes from
    outside."""
    name = key.task_id
    if not _PLAIN_ID.match(name):
        name = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name}-{key.attempt}-{key.fence}"
