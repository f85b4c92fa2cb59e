"""Turns an archive of `core.archive` into a directory.

The agent does this itself rather than in a sandbox, because of what it does not do: there is no general tar reader
here. The format has no links, devices, owners or compression, every header has one form, and all are checked before the
first file is made (docs/exec.md, Archive).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

from agent.core.archive import Member, ReadAt, members

_PIECE_BYTES = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def unpack(archive: int, target: bytes) -> None:
    """Make the directory `target` from the file behind descriptor `archive`; durable when it returns.

    Raises ArchiveError before anything is made, OSError.
    """
    unpack_from(lambda offset, count: os.pread(archive, count, offset), os.fstat(archive).st_size, target)


def unpack_from(read_at: ReadAt, size: int, target: bytes) -> None:
    """`unpack` of an archive of `size` bytes, wherever it lies."""
    found = members(read_at, size)
    _directory(target)
    for directory in _directories(found):
        _directory(target + b"/" + directory)
    for entry, offset in found:
        if not entry.directory:
            _file(read_at, offset, entry.size, target + b"/" + entry.path, 0o755 if entry.executable else 0o644)
    _flush(target)


def _directories(found: tuple[Member, ...]) -> Iterator[bytes]:
    """Every directory, each after the one that it lies in."""
    made: set[bytes] = set()
    for entry, _ in found:
        names = entry.path.split(b"/")
        for depth in range(1, len(names) + entry.directory):
            path = b"/".join(names[:depth])
            if path not in made:
                made.add(path)
                yield path


def _directory(path: bytes) -> None:
    os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103 (whatever the umask: the sandbox's user reads it)


def _file(read_at: ReadAt, offset: int, size: int, path: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)  # likewise
        end = offset + size
        while offset < end:
            if not (piece := read_at(offset, min(end - offset, _PIECE_BYTES))):
                raise OSError(errno.EIO, "the archive became shorter while it was unpacked")
            offset += os.write(fd, piece)
    finally:
        os.close(fd)


def _flush(directory: bytes) -> None:
    """All of a file system at once: a bundle may have thousands of files, and each fsync waits for the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), directory)
    finally:
        os.close(fd)
