"""All segments of one directory. One thread changes it; any thread may look."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from agent.core.model import LeaseKey
from agent.edges.durable import make_private_directory
from agent.edges.segments.files import SUFFIX, GrowingSegment, Segment, load, recover, survey

SEGMENT_BYTES = 16 << 20
"""What is deleted at once: a larger one keeps more that nobody wants any more, a smaller one makes more files."""
SEGMENT_RECORDS = 4096
"""A record costs some 200 bytes of memory while its segment grows, and 16 afterwards: tiny ones are many."""
SPAN_S = 3600
"""A segment's records end their time within this much of its first: nothing is kept for longer than that over it."""


class SegmentLog:
    """Raises OSError where a disk or a directory does; BlockingIOError when another process writes here."""

    def __init__(self, directory: Path) -> None:
        """Makes whole what a dead process left. Reads the index of every segment, 16 bytes a record."""
        self._directory = directory
        make_private_directory(directory)
        paths = segments_in(directory)
        self._finished = [found for path in paths if (found := load(path) or recover(path))]
        self._next = 1 + max((int(path.stem) for path in paths), default=0)
        self._growing: GrowingSegment | None = None
        self._moving = threading.Lock()
        """Held while a segment goes from growing to finished, or away."""
        self.used_bytes = sum(segment.size_bytes for segment in self._finished)

    def append(self, records: Sequence[tuple[LeaseKey, int, bytes]]) -> None:
        """Add records (key, until in Unix seconds, bytes), all or none; durable when this returns."""
        growing = self._room_for(records[0][1])
        try:
            growing.append(records)
        finally:
            if not growing.sound:
                self._finish()
        self.used_bytes += sum(len(record) for _, _, record in records)

    def find(self, key: LeaseKey) -> bytes | None:
        """What was kept last for `key`. Raises UnsoundError when it is damaged."""
        with self._moving:
            segments: list[Segment | GrowingSegment] = [*self._finished]
            if self._growing is not None:
                segments.append(self._growing)
        for segment in reversed(segments):
            try:
                found = segment.find(key)
            except FileNotFoundError:  # swept meanwhile
                continue
            if found is not None:
                return found
        return None

    def sweep(self, now: float) -> int:
        """Delete segments of which nothing is wanted any more; returns how many records went. One that cannot be
        deleted is told of when all others are gone."""
        if self._growing is not None and self._growing.until <= now:
            self._finish()
        gone, fault = 0, None
        for segment in [segment for segment in self._finished if segment.records.until <= now]:
            try:
                segment.path.unlink(missing_ok=True)
            except OSError as error:
                fault = error
                continue
            with self._moving:
                self._finished.remove(segment)
            self.used_bytes -= segment.size_bytes
            gone += len(segment.records)
        if fault is not None:
            raise fault
        return gone

    def close(self) -> None:
        """Finish what grows. Idempotent."""
        self._finish()

    def _room_for(self, until: int) -> GrowingSegment:
        growing = self._growing
        if growing is not None and (_is_full(growing) or not growing.spans(until, SPAN_S)):
            self._finish()
        if self._growing is None:
            growing = GrowingSegment(self._directory / f"{self._next:012d}{SUFFIX}")
            self._next += 1
            with self._moving:
                self._growing = growing
        return self._growing

    def _finish(self) -> None:
        growing = self._growing
        if growing is None:
            return
        grown_bytes, finished = growing.size_bytes, growing.finish()
        with self._moving:
            self._growing = None
            if len(finished.records):
                self._finished.append(finished)
        if not len(finished.records):
            finished.path.unlink(missing_ok=True)
            finished = finished._replace(size_bytes=0)
        self.used_bytes += finished.size_bytes - grown_bytes


def _is_full(growing: GrowingSegment) -> bool:
    return growing.size_bytes >= SEGMENT_BYTES or growing.records >= SEGMENT_RECORDS


def segments_in(directory: Path) -> list[Path]:
    """Oldest first; other files are nobody's business. Raises OSError."""
    return sorted(path for path in directory.iterdir() if path.suffix == SUFFIX and path.stem.isdecimal())


def find_beside(directory: Path, key: LeaseKey) -> bytes | None:
    """What was kept last for `key` by an agent that may be running. Raises UnsoundError, OSError."""
    for path in reversed(segments_in(directory)):
        try:
            segment = load(path) or survey(path)[0]
            if (found := segment.find(key)) is not None:
                return found
        except FileNotFoundError:  # swept, or finished, meanwhile
            continue
    return None
