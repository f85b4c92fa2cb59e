"""Takes in what a program left in /out. The program made it: every name, type and size there is to be doubted.

Nothing is followed, opened for its side effects, or believed twice: a first walk looks at all without opening a file
(`survey`), then each wanted file is opened beneath the root and must still be what it was (`pack`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from agent.core.archive import END, MAX_DEPTH, ArchiveError, Entry, head, padding, shown
from agent.core.globs import any_matches
from agent.edges.programs.openat2 import open_beneath

PREFIX = b"out/"
"""Where the files of /out stand in the archive."""
MAX_FILES = 10_000
MAX_NAMES = 50_000
"""Looked at, wanted or not: a walk takes about 10 µs a name."""
MAX_TOLD = 50
"""Of what is left out, that many are named."""
_UNREADABLE = "its mode forbids to read it"
_PIECE_BYTES = 256 << 10
_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class TooMuchError(Exception):
    """More than may be collected; the message says of what."""


class ChangedError(Exception):
    """A file is not what it was a moment ago, though nobody should be there to change it."""


class Caps(NamedTuple):
    """The most that is collected."""

    bytes: int
    files: int = MAX_FILES
    names: int = MAX_NAMES


class Survey(NamedTuple):
    """What lies there."""

    entries: tuple[Entry, ...]
    """Wanted, sorted by path, which is relative to the root."""
    left_out: tuple[str, ...]
    """What is neither file nor directory, in words."""


class Packed(NamedTuple):
    """One member of an archive that was written."""

    entry: Entry
    sha256: str


def survey(root: int, patterns: Sequence[bytes], caps: Caps) -> Survey:
    """Walk the directory `root`. Raises TooMuchError, OSError."""
    walk = _Walk(patterns, caps)
    walk.down(root, b"", 1)
    return Survey(tuple(sorted(walk.entries)), tuple(walk.left_out))


def pack(
    into: BinaryIO, root: int, entries: Sequence[Entry], more: dict[bytes, bytes], prefix: bytes = PREFIX
) -> Iterator[Packed]:
    """Write the archive of `entries`, below `prefix`, and of `more`: path → content. Yields its members as it goes.

    Raises ChangedError, OSError, ArchiveError.
    """
    found = {prefix + entry.path: entry for entry in entries}
    for path in sorted([*found, *more]):
        if path in more:
            entry = Entry(path, len(more[path]))
            into.write(head(entry) + more[path])
            yield Packed(entry, hashlib.sha256(more[path]).hexdigest())
        else:
            entry = found[path]._replace(path=path)
            into.write(head(entry))
            yield Packed(entry, _copy(into, root, found[path]))
        into.write(bytes(padding(entry.size)))
    into.write(END)


class _Walk:
    def __init__(self, patterns: Sequence[bytes], caps: Caps) -> None:
        self._patterns = patterns
        self._caps = caps
        self._bytes = 0
        self._names = 0
        self.entries: list[Entry] = []
        self.left_out: list[str] = []

    def down(self, directory: int, path: bytes, depth: int) -> None:
        """`path` is empty, or ends in a slash."""
        if depth >= MAX_DEPTH:
            raise TooMuchError(f"{shown(path)} is deeper than {MAX_DEPTH - 1} directories")
        empty = True
        with os.scandir(directory) as names:
            for name in names:
                empty = False
                self._names += 1
                if self._names > self._caps.names:
                    raise TooMuchError(f"more than {self._caps.names} files and directories")
                self._look(directory, path, os.fsencode(name.name), depth)
        if empty and path and any_matches(self._patterns, path[:-1]):
            self._take(Entry(path[:-1], directory=True))

    def _look(self, directory: int, path: bytes, name: bytes, depth: int) -> None:
        try:
            fd = open_beneath(directory, name, os.O_PATH)
        except PermissionError:
            self._leave_out(path + name, _UNREADABLE)
            return
        try:
            facts = os.fstat(fd)
            readable = _open_to_owner(facts.st_mode) and os.access(f"/proc/self/fd/{fd}", os.R_OK)
        finally:
            os.close(fd)
        if not stat.S_ISDIR(facts.st_mode):
            if any_matches(self._patterns, path + name):
                self._file(path + name, facts, readable=readable)
        elif not readable:
            self._leave_out(path + name, _UNREADABLE)
        else:
            inner = open_beneath(directory, name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self.down(inner, path + name + b"/", depth + 1)
            finally:
                os.close(inner)

    def _leave_out(self, path: bytes, why: str) -> None:
        if len(self.left_out) < MAX_TOLD:
            self.left_out.append(f"{shown(path)}: {why}")

    def _file(self, path: bytes, facts: os.stat_result, *, readable: bool) -> None:
        if fault := _unfit(facts) or ("" if readable else _UNREADABLE):
            self._leave_out(path, fault)
            return
        self._bytes += facts.st_size  # as said, not as stored: a sparse file is as large as it reads
        if self._bytes > self._caps.bytes:
            raise TooMuchError(f"more than {self._caps.bytes} bytes")
        self._take(Entry(path, facts.st_size, bool(facts.st_mode & stat.S_IXUSR)))

    def _take(self, entry: Entry) -> None:
        if len(self.entries) == self._caps.files:
            raise TooMuchError(f"more than {self._caps.files} files")
        try:
            head(entry._replace(path=PREFIX + entry.path))
        except ArchiveError as error:
            raise TooMuchError(str(error)) from error
        self.entries.append(entry)


def _open_to_owner(mode: int) -> bool:
    """By its mode alone, so that root collects what an ordinary user does."""
    needs = stat.S_IRUSR | stat.S_IXUSR if stat.S_ISDIR(mode) else stat.S_IRUSR
    return stat.S_ISLNK(mode) or mode & needs == needs


def _unfit(facts: os.stat_result) -> str:
    """Why it is no file to be collected; empty when it is."""
    if not stat.S_ISREG(facts.st_mode):
        return _KINDS.get(stat.S_IFMT(facts.st_mode), "no file")
    return "" if facts.st_nlink == 1 else "hard link"


def _copy(into: BinaryIO, root: int, entry: Entry) -> str:
    if entry.directory:
        return hashlib.sha256().hexdigest()
    try:
        fd = open_beneath(root, entry.path, os.O_RDONLY)
    except OSError as error:
        raise ChangedError(f"{shown(entry.path)} was replaced while it was collected") from error
    try:
        facts = os.fstat(fd)
        if _unfit(facts) or facts.st_size != entry.size:
            raise ChangedError(f"{shown(entry.path)} changed while it was collected")
        return _copy_all(into, fd, entry)
    finally:
        os.close(fd)


def _copy_all(into: BinaryIO, fd: int, entry: Entry) -> str:
    state, left = hashlib.sha256(), entry.size
    while left:
        piece = os.read(fd, min(left, _PIECE_BYTES))
        if not piece:
            raise ChangedError(f"{shown(entry.path)} became shorter while it was collected")
        state.update(piece)
        into.write(piece)
        left -= len(piece)
    return state.hexdigest()
