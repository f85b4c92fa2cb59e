"""One record: its head says everything about it, so that a file of records can be read without any index.

Little-endian: magic, CRC-32 of the rest of the head and the name, until (Unix seconds), attempt, fence, bytes of the
content, bytes stored, CRC-32 of what is stored, bytes of the name, packing; then the name (the task's id, UTF-8) and
what is stored.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from agent.core.model import LeaseKey

MAGIC = b"rec1"
_HEAD = struct.Struct("<4sIQQQQQIIB")
_CHECKED_FROM = 8
"""Behind the magic and the checksum itself."""
_UNTIL_MAX = (1 << 63) - 1
PACK_FROM_BYTES = 8 << 10
"""About 25 tokens with 40 candidates. Packing costs 18 µs a KiB: below this more than all the rest of keeping it."""
PACK_LEVEL = 1
"""228 bytes a token of 327, at 6 ms for 1,024; level 6 takes 20 ms and saves nothing more."""


class Packing(IntEnum):
    """How the content is stored."""

    PLAIN = 0
    ZLIB = 1


class UnsoundError(Exception):
    """What was read is not what was written."""


class Head(NamedTuple):
    """The head of one record."""

    at: int
    """Where the record begins in its file."""
    key: LeaseKey
    until: int
    """Unix seconds."""
    packing: int
    content_bytes: int
    stored_bytes: int
    stored_crc: int
    stored_at: int
    """Where its content begins in its file."""

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.stored_at + self.stored_bytes


def packed(content: bytes) -> tuple[Packing, bytes]:
    """The smaller way to store `content`, where packing may pay; the interpreter is free meanwhile."""
    if len(content) >= PACK_FROM_BYTES and len(smaller := zlib.compress(content, PACK_LEVEL)) < len(content):
        return Packing.ZLIB, smaller
    return Packing.PLAIN, content


def encode(key: LeaseKey, until: float, content_bytes: int, packing: Packing, stored: bytes) -> bytes:
    """A record, ready to be written."""
    name = _name(key)
    fields = (
        whole_seconds(until),
        key.attempt,
        key.fence,
        content_bytes,
        len(stored),
        zlib.crc32(stored),
        len(name),
        packing,
    )
    head = _HEAD.pack(MAGIC, 0, *fields)[_CHECKED_FROM:]
    crc = zlib.crc32(name, zlib.crc32(head))
    return b"".join((MAGIC, crc.to_bytes(4, "little"), head, name, stored))


def head_at(raw: bytes, at: int, *, offset: int = 0) -> Head | None:
    """The head that begins at `raw[at]`, where `raw` begins at byte `offset` of its file; None: no sound one does."""
    if len(raw) - at < _HEAD.size:
        return None
    magic, crc, until, attempt, fence, content_bytes, stored_bytes, stored_crc, name_bytes, packing = _HEAD.unpack_from(
        raw, at
    )
    name_at = at + _HEAD.size
    name = raw[name_at : name_at + name_bytes]
    if magic != MAGIC or len(name) != name_bytes:
        return None
    if zlib.crc32(name, zlib.crc32(raw[at + _CHECKED_FROM : name_at])) != crc:
        return None
    key = LeaseKey(task_id=name.decode("utf-8", "surrogatepass"), attempt=attempt, fence=fence)
    stored_at = offset + name_at + name_bytes
    return Head(offset + at, key, until, packing, content_bytes, stored_bytes, stored_crc, stored_at)


def content_of(head: Head, stored: bytes) -> bytes:
    """Raises UnsoundError."""
    if len(stored) != head.stored_bytes or zlib.crc32(stored) != head.stored_crc:
        raise UnsoundError("its checksum is wrong")
    if head.packing == Packing.PLAIN:
        return stored
    if head.packing != Packing.ZLIB:
        raise UnsoundError(f"it is packed in a way that this version does not know ({head.packing})")
    try:
        content = zlib.decompress(stored, bufsize=head.content_bytes)
    except zlib.error as error:
        raise UnsoundError("it cannot be unpacked") from error
    return content


def scan(raw: bytes) -> Iterator[Head]:
    """Every whole record of a file without an index: damage costs the records it is in, not those behind."""
    at = 0
    while at >= 0:
        head = head_at(raw, at)
        if head is None or head.end > len(raw):
            at = raw.find(MAGIC, at + 1)
            continue
        if zlib.crc32(raw[head.stored_at : head.end]) == head.stored_crc:
            yield head
        at = head.end


def mark(key: LeaseKey) -> int:
    """64 bits that stand for a key in an index; who finds a record by them looks at its head, too."""
    name = b"%d %d %b" % (key.attempt, key.fence, _name(key))
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little")


def whole_seconds(until: float) -> int:
    """Rounded up: nothing goes before its time."""
    return min(max(math.ceil(until), 0), _UNTIL_MAX)


def _name(key: LeaseKey) -> bytes:
    return key.task_id.encode("utf-8", "surrogatepass")
