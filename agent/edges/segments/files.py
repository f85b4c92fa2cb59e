"""Files of records: one that grows, and finished ones that are only read until they are deleted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.model import LeaseKey
from agent.edges.durable import NO_ROOM, sync_directory
from agent.edges.segments.index import TRAILER_BYTES, Index, index_of, trailer_of
from agent.edges.segments.records import content_of, head_at, mark, scan

SUFFIX = ".segment"
AHEAD_BYTES = 256 << 10
"""Zeros that are written ahead. A flush then finds the file as long as before, and the file system has no journal to
write: 0.1 ms where it took 0.4."""
_HEAD_READS_BYTES = (4 << 10, 4 << 20)
"""A head with the name of any sane task; with any that fits a message."""


class Segment(NamedTuple):
    """A finished file."""

    path: Path
    records: Index
    size_bytes: int

    def find(self, key: LeaseKey) -> bytes | None:
        """Raises UnsoundError, OSError."""
        places = list(self.records.find(mark(key)))
        return read_first(self.path, places, key) if places else None


def read_first(path: Path, places: Sequence[int], key: LeaseKey) -> bytes | None:
    """The content of the first of the records at `places` that is for `key`. Raises UnsoundError, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for place in places:
            for size in _HEAD_READS_BYTES:
                head = head_at(os.pread(descriptor, size, place), 0, offset=place)
                if head is not None and head.key == key:
                    return content_of(head, os.pread(descriptor, head.stored_bytes, head.stored_at))
    finally:
        os.close(descriptor)
    return None


def load(path: Path) -> Segment | None:
    """A finished file by the index at its end; None when it has none (any more). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        trailer = trailer_of(os.pread(descriptor, TRAILER_BYTES, max(0, size - TRAILER_BYTES)))
        begins = size - TRAILER_BYTES - trailer.index_bytes if trailer else -1
        if trailer is None or begins < 0:
            return None
        index = index_of(os.pread(descriptor, trailer.index_bytes, begins), trailer)
        return Segment(path, index, size) if index else None
    finally:
        os.close(descriptor)


def survey(path: Path) -> tuple[Segment, int]:
    """What can be found in a file without an index, and where its last whole record ends. Raises OSError."""
    raw = path.read_bytes()
    heads = list(scan(raw))
    index = Index.of(((mark(head.key), head.at) for head in heads), max((head.until for head in heads), default=0))
    return Segment(path, index, len(raw)), max((head.end for head in heads), default=0)


def recover(path: Path) -> Segment | None:
    """Finish what a dead process left: its torn end is cut off, an index is added. None when nothing whole was in it;
    the file is gone then. Raises OSError: BlockingIOError when the process lives."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, end = survey(path)
        if len(found.records):
            return _finish(file.fileno(), path, found.records, end)
    path.unlink()
    return None


def _finish(descriptor: int, path: Path, index: Index, end: int) -> Segment:
    """Not flushed: an index that a power cut takes away is made again. So is one for which there was no room."""
    told = index.to_bytes()
    try:
        os.ftruncate(descriptor, end)
        _write(descriptor, [told], end)
    except OSError:
        return Segment(path, index, end)
    return Segment(path, index, end + len(told))


class GrowingSegment:
    """The file that is being written, by one thread; others may `find` in it."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sync_directory(path.parent)
        self._places: dict[int, tuple[int, ...]] = {}
        self._zeros_to = 0
        self._first_until: int | None = None
        self.until = 0
        """Unix seconds: from then on none of its records is wanted."""
        self.sound = True
        """Whether it may be written any more."""
        self.size_bytes = 0
        """Of records; the file itself may be longer, by zeros."""

    def append(self, records: Sequence[tuple[LeaseKey, int, bytes]]) -> None:
        """Add records (key, until, bytes), all or none; durable when this returns. Raises OSError."""
        parts = [record for _, _, record in records]
        size = sum(map(len, parts))
        end = self.size_bytes + size
        if self._zeros_to < end and size < AHEAD_BYTES:  # what is large takes its time anyway
            self._extend(end)
        try:
            _write(self._descriptor, parts, self.size_bytes)
        except OSError:
            self._give_back()
            raise
        self.sound = False  # after a failed flush nobody knows what of the file is on the disk
        os.fdatasync(self._descriptor)
        self.sound = True
        place = self.size_bytes
        for key, until, record in records:
            number = mark(key)
            self._places[number] = (place, *self._places.get(number, ()))
            self.until = max(self.until, until)
            place += len(record)
        if self._first_until is None and records:
            self._first_until = records[0][1]
        self.size_bytes = end

    @property
    def records(self) -> int:
        """How many there are, of different keys."""
        return len(self._places)

    def find(self, key: LeaseKey) -> bytes | None:
        """Raises UnsoundError, OSError."""
        places = self._places.get(mark(key))
        return read_first(self.path, places, key) if places else None

    def spans(self, until: int, most_s: int) -> bool:
        """Whether a record until then would be near enough to the first."""
        return self._first_until is None or abs(until - self._first_until) <= most_s

    def finish(self) -> Segment:
        """Close it for good."""
        records = ((number, place) for number, places in self._places.items() for place in places)
        try:
            return _finish(self._descriptor, self.path, Index.of(records, self.until), self.size_bytes)
        finally:
            os.close(self._descriptor)

    def _extend(self, end: int) -> None:
        """Zeros to beyond `end`, where there is room for that; the write itself tells when there is not even for it."""
        try:
            _write(self._descriptor, [bytes(end - self.size_bytes + AHEAD_BYTES)], self.size_bytes)
        except OSError as error:
            self._give_back()
            if error.errno not in NO_ROOM:
                raise
        else:
            self._zeros_to = end + AHEAD_BYTES

    def _give_back(self) -> None:
        """What room the disk has left is for records, whosever."""
        os.ftruncate(self._descriptor, self.size_bytes)
        self._zeros_to = self.size_bytes


def _write(descriptor: int, parts: Sequence[bytes], at: int) -> None:
    """All of it, whatever the system takes at once. Raises OSError."""
    done = os.pwritev(descriptor, parts, at)
    if done == sum(map(len, parts)):
        return
    rest = memoryview(b"".join(parts))[done:]
    while rest:
        done = os.pwrite(descriptor, rest, at := at + done)
        rest = rest[done:]
