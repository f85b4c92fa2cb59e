"""Where the records of one finished file are: 16 bytes each, in memory and at the file's end."""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_TRAILER = struct.Struct("<IQQ4s")
_MAGIC = b"idx1"
TRAILER_BYTES = _TRAILER.size


class Trailer(NamedTuple):
    """The last bytes of a finished file."""

    crc: int
    records: int
    until: int
    """Unix seconds: from then on no record of the file is wanted."""

    @property
    def index_bytes(self) -> int:
        """Of the index itself, right before the trailer."""
        return 16 * self.records


class Index:
    """Sorted marks, and beside each where its record begins."""

    def __init__(self, marks: array[int], places: array[int], until: int) -> None:
        self._marks = marks
        self._places = places
        self.until = until

    @classmethod
    def of(cls, records: Iterable[tuple[int, int]], until: int) -> Index:
        """`records`: mark and place of each, in any order."""
        ordered = sorted(records)
        return cls(array("Q", [mark for mark, _ in ordered]), array("Q", [place for _, place in ordered]), until)

    def __len__(self) -> int:
        return len(self._marks)

    def find(self, mark: int) -> Iterator[int]:
        """The latest first."""
        end = at = bisect_left(self._marks, mark)
        while end < len(self._marks) and self._marks[end] == mark:
            end += 1
        return iter(reversed(self._places[at:end]))

    def to_bytes(self) -> bytes:
        """Index and trailer."""
        index = _little(self._marks).tobytes() + _little(self._places).tobytes()
        rest = _TRAILER.pack(0, len(self), self.until, _MAGIC)[4:]
        return index + zlib.crc32(rest, zlib.crc32(index)).to_bytes(4, "little") + rest


def trailer_of(raw: bytes) -> Trailer | None:
    """From a file's last TRAILER_BYTES; None when it ends otherwise."""
    if len(raw) != TRAILER_BYTES:
        return None
    crc, count, until, magic = _TRAILER.unpack(raw)
    return Trailer(crc, count, until) if magic == _MAGIC else None


def index_of(raw: bytes, trailer: Trailer) -> Index | None:
    """None when `raw` is not what the trailer was written for."""
    rest = _TRAILER.pack(0, trailer.records, trailer.until, _MAGIC)[4:]
    if len(raw) != trailer.index_bytes or zlib.crc32(rest, zlib.crc32(raw)) != trailer.crc:
        return None
    marks, places = array("Q"), array("Q")
    marks.frombytes(raw[: 8 * trailer.records])
    places.frombytes(raw[8 * trailer.records :])
    return Index(_little(marks), _little(places), trailer.until)


def _little(numbers: array[int]) -> array[int]:
    """Files are little-endian, arrays as the machine is."""
    if sys.byteorder == "big":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers
