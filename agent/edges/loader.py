"""What the dynamic loader would find: its cache, and the name by which a library is looked for."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

CACHE = Path("/etc/ld.so.cache")
# glibc's sysdeps/generic/dl-cache.h: struct cache_file_new and file_entry_new.
_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("=20sI24x")
_ENTRY = struct.Struct("=iIIIQ")
# elf.h, for 64-bit little-endian files, which are all that NVIDIA ships for the machines we run on.
_ELF = b"\x7fELF\x02\x01"
_PROGRAM = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DYNAMIC = struct.Struct("<qQ")
_DT_STRTAB, _DT_SONAME = 5, 14
_PROGRAMS = 64
_NAME_BYTES = 256


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size: int


def cached(cache: bytes) -> dict[str, str]:
    """Library name → path, the loader's first choice for each; empty for a cache of another form."""
    start = cache.find(_MAGIC)
    if start < 0 or len(cache) < start + _HEADER.size:
        return {}
    _, count = _HEADER.unpack_from(cache, start)
    first = start + _HEADER.size
    found: dict[str, str] = {}
    for _, name, path, _, _ in _ENTRY.iter_unpack(cache[first : first + count * _ENTRY.size]):
        found.setdefault(_text(cache, start + name), _text(cache, start + path))
    return found


def soname(file: Path) -> str | None:
    """The name by which programs ask for this library; None for a file that is no library of this kind of machine."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as image:
            return _soname(image) if image[: len(_ELF)] == _ELF else None
    except (OSError, ValueError, OverflowError, struct.error):  # not there, empty, cut off, or nonsense
        return None


def _soname(image: mmap.mmap) -> str | None:
    segments = _segments(image)
    dynamic = next((segment for segment in segments if segment.kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return None
    entries = dict(_DYNAMIC.iter_unpack(image[dynamic.offset : dynamic.offset + dynamic.size // 16 * 16]))
    if _DT_SONAME not in entries or _DT_STRTAB not in entries:
        return None
    at = entries[_DT_STRTAB]
    holders = (s for s in segments if s.kind == _PT_LOAD and s.address <= at < s.address + s.size)
    if (holder := next(holders, None)) is None:
        return None
    return _text(image, holder.offset + at - holder.address + entries[_DT_SONAME]) or None


def _segments(image: mmap.mmap) -> list[_Segment]:
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    rows = (_PROGRAM.unpack_from(image, table + number * size) for number in range(min(count, _PROGRAMS)))
    return [_Segment(kind, offset, address, length) for kind, _, offset, address, _, length, _, _ in rows]


def _text(image: bytes | mmap.mmap, at: int) -> str:
    return image[at : at + _NAME_BYTES].split(b"\0", 1)[0].decode(errors="replace")
