"""SQLite's write-ahead log, read without SQLite: it stops at the first frame that is damaged, and says nothing.

After https://www.sqlite.org/fileformat2.html#the_write_ahead_log. A frame is one page; the checksum of each goes on
from the one before. A power cut may tear the last transaction, of which nobody was told; whole ones behind a broken
frame are another matter: those were flushed, and acknowledged.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

_HEAD = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
"""Its last bit says whether checksums read words as big-endian."""
_VERSION = 3007000
_PAGE_BYTES = 4096
"""SQLite's own choice, where the log's head cannot be asked."""
_WORD = 0xFFFFFFFF
TORN_COMMITS = 1
"""A power cut tears the last transaction that was to be flushed. Where it also tears several before that which were not
(`Database.run_unflushed`), this tells of damage that hurts nobody: what is sound is rescued all the same."""

Sums = tuple[int, int]


class _Head(NamedTuple):
    big_endian: bool
    """How checksums read words."""
    page_bytes: int
    sequence: int
    salts: tuple[int, int]
    sums: Sums | None
    """None: the head itself is damaged."""


class _Frame(NamedTuple):
    ours: bool
    """An earlier log in the same file left its frames behind, with other salts."""
    committed_pages: int
    """Size of the database after this frame; 0 inside a transaction."""
    sums: Sums
    content: bytes
    """Page number, committed pages and the page: what the checksum is over."""


def loses_commits(log: bytes) -> bool:
    """Whether transactions lie behind what SQLite goes by, and were not just torn."""
    if len(log) < _HEAD.size + _FRAME.size:
        return False
    head = _head(log)
    before, lost = head.sums, 0
    for frame in _frames(log, head):
        if before and frame.ours and _sums(frame.content, before, head) == frame.sums:
            before = frame.sums
        else:
            before = None  # SQLite stops at the first that is not sound
            lost += frame.ours and frame.committed_pages > 0
    return lost > TORN_COMMITS


def mended(log: bytes) -> bytes:
    """A log of all frames that are sound; what SQLite then reads may still be damaged, where one is missing."""
    head = _head(log)
    frames = list(_sound(log, head))
    while frames and not frames[-1].committed_pages:
        frames.pop()
    first = struct.pack(">6I", _MAGIC | head.big_endian, _VERSION, head.page_bytes, head.sequence, *head.salts)
    sums = _sums(first, (0, 0), head)
    parts = [first, struct.pack(">2I", *sums)]
    for frame in frames:
        sums = _sums(frame.content, sums, head)
        parts += [frame.content[:8], struct.pack(">4I", *head.salts, *sums), frame.content[8:]]
    return b"".join(parts)


def _head(log: bytes) -> _Head:
    """Of a log with one frame at least. Where it is damaged, the first frame tells what is needed of it."""
    magic, version, page_bytes, sequence, salt_1, salt_2, *sums = _HEAD.unpack_from(log)
    head = _Head(bool(magic & 1), page_bytes, sequence, (salt_1, salt_2), (sums[0], sums[1]))
    if (magic & ~1, version) == (_MAGIC, _VERSION) and _sums(log[:24], (0, 0), head) == head.sums:
        return head
    _, _, salt_1, salt_2, _, _ = _FRAME.unpack_from(log, _HEAD.size)
    return _Head(sys.byteorder == "big", _PAGE_BYTES, 0, (salt_1, salt_2), None)


def _frames(log: bytes, head: _Head) -> Iterator[_Frame]:
    step = _FRAME.size + head.page_bytes
    for at in range(_HEAD.size, len(log) - step + 1, step):
        _, committed_pages, salt_1, salt_2, sum_1, sum_2 = _FRAME.unpack_from(log, at)
        content = log[at : at + 8] + log[at + _FRAME.size : at + step]
        yield _Frame((salt_1, salt_2) == head.salts, committed_pages, (sum_1, sum_2), content)


def _sound(log: bytes, head: _Head) -> Iterator[_Frame]:
    """Each checksum goes on from the one before as that was written down: damage costs a frame, or it and the next."""
    before = head.sums
    for frame in _frames(log, head):
        if frame.ours and (before is None or _sums(frame.content, before, head) == frame.sums):
            yield frame
        before = frame.sums


def _sums(content: bytes, start: Sums, head: _Head) -> Sums:
    """SQLite's checksum, 0.15 ms a page."""
    words = struct.unpack(f"{'>' if head.big_endian else '<'}{len(content) // 4}I", content)
    one, two = start
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & _WORD
        two = (two + second + one) & _WORD
    return one, two
