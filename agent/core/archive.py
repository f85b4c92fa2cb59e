"""The one archive that travels, for bundles and for outputs: a tar of which every set of files has exactly one.

Any tar reads it. This reader takes nothing else: only files and empty directories, sorted by path, mode 0644 or 0755,
no owner, no time, no link, no device, no sparse file, no compression. A header is read by its four fields and then
compared with the one that these give, so that nothing is left in it that could mean something (docs/exec.md, Archive).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255
MAX_DEPTH = 32
MAX_MEMBERS = 20_000
MAX_FILE_BYTES = (1 << 33) - 1
"""Eleven octal digits."""
_INLINE_PATH = 100
"""A longer one stands in a record of its own before, as GNU tar writes it."""
_LONG = b"././@LongLink"

ReadAt = Callable[[int, int], bytes]
"""(offset, count) → that many bytes, fewer only at the end."""


class Entry(NamedTuple):
    """A file, or a directory that holds nothing."""

    path: bytes
    size: int = 0
    executable: bool = False
    directory: bool = False


class Member(NamedTuple):
    """An entry and where its content begins."""

    entry: Entry
    offset: int


class ArchiveError(Exception):
    """Not an archive of this kind; the message says where."""


def head(entry: Entry) -> bytes:
    """The blocks before an entry's content. Raises ArchiveError for what cannot be written."""
    if fault := path_fault(entry.path):
        raise ArchiveError(fault)
    if not 0 <= entry.size <= MAX_FILE_BYTES or (entry.directory and entry.size):
        raise ArchiveError(f"{shown(entry.path)} cannot have {entry.size} bytes")
    path = entry.path + b"/" if entry.directory else entry.path
    kind = b"5" if entry.directory else b"0"
    block = _block(path[:_INLINE_PATH], entry.size, executable=entry.executable or entry.directory, kind=kind)
    if len(path) <= _INLINE_PATH:
        return block
    long = path + b"\0"
    return _block(_LONG, len(long), executable=False, kind=b"L") + long + bytes(padding(len(long))) + block


def padding(size: int) -> int:
    """Zero bytes that follow a content of `size` bytes."""
    return -size % BLOCK


def members(read_at: ReadAt, size: int) -> tuple[Member, ...]:
    """Everything in an archive of `size` bytes. Raises ArchiveError unless it is the one archive of its files.

    Contents are not read: of each member one to five blocks are.
    """
    found: list[Member] = []
    offset = 0
    while (block := read_at(offset, BLOCK)) != bytes(BLOCK):
        if len(found) == MAX_MEMBERS:
            raise ArchiveError(f"more than {MAX_MEMBERS} members")
        member = _member(read_at, offset, block)
        if found and found[-1].entry.path >= member.entry.path:
            raise ArchiveError(f"{shown(member.entry.path)} is out of order")
        found.append(member)
        offset = member.offset + member.entry.size
        if read_at(offset, padding(offset)) != bytes(padding(offset)):
            raise ArchiveError(f"{shown(member.entry.path)} is not followed by zeros")
        offset += padding(offset)
    if read_at(offset, len(END)) != END or offset + len(END) != size:
        raise ArchiveError("it does not end where it says that it ends")
    _check_tree([member.entry for member in found])
    return tuple(found)


def path_fault(path: bytes) -> str:
    """Why no member may be called so; empty when one may."""
    names = path.split(b"/")
    if any(name in (b"", b".", b"..") for name in names):
        return f"{shown(path)} is not a relative path of plain names"
    if b"\0" in path or len(path) > MAX_PATH_BYTES or len(names) > MAX_DEPTH:
        return f"{shown(path)} is longer or deeper than {MAX_PATH_BYTES} bytes and {MAX_DEPTH} names, or holds a zero"
    if max(map(len, names)) > MAX_NAME_BYTES:
        return f"{shown(path)}: a name has more than {MAX_NAME_BYTES} bytes"
    return ""


def shown(path: bytes) -> str:
    """A path for people: what is not printable ASCII or UTF-8 text is escaped."""
    text = path[:200].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) + ("…" if len(path) > 200 else "")


def _member(read_at: ReadAt, offset: int, block: bytes) -> Member:
    start, path = offset, b""
    if block[156:157] == b"L":
        length = _number(block[124:136])
        if not _INLINE_PATH < length - 1 <= MAX_PATH_BYTES + 1:
            raise ArchiveError(f"a path of {length} bytes at {offset}")
        path = read_at(offset + BLOCK, length)[:-1]
        offset += BLOCK + length + padding(length)
        block = read_at(offset, BLOCK)
    if len(block) != BLOCK:
        raise ArchiveError(f"it is cut at {offset}")
    kind = block[156:157]
    if kind not in (b"0", b"5"):
        raise ArchiveError(f"at {offset}: a member of type {kind!r}; only files and directories are taken")
    directory = kind == b"5"
    path = path or block[:_INLINE_PATH].rstrip(b"\0")
    entry = Entry(
        path=path.removesuffix(b"/") if directory else path,
        size=_number(block[124:136]),
        executable=not directory and block[100:107] == b"0000755",
        directory=directory,
    )
    expected = head(entry)
    if read_at(start, len(expected)) != expected:
        raise ArchiveError(f"the header of {shown(entry.path)} is not in its one plain form")
    return Member(entry, offset + BLOCK)


def _block(path: bytes, size: int, *, executable: bool, kind: bytes) -> bytes:
    """A header of POSIX ustar."""
    fields: Iterator[tuple[bytes, int]] = iter(
        (
            (path, 100),
            (b"0000755" if executable else b"0000644", 8),
            (b"0000000", 8),
            (b"0000000", 8),
            (b"%011o" % size, 12),
            (b"00000000000", 12),
            (b" " * 8, 8),
            (kind, 1),
            (b"", 100),
            (b"ustar\x0000", 8),
            (b"", 64),
            (b"0000000", 8),
            (b"0000000", 8),
            (b"", 167),
        )
    )
    raw = b"".join(value.ljust(width, b"\0") for value, width in fields)
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]


def _number(field: bytes) -> int:
    digits = field[:11]
    if field[11:] != b"\0" or digits.strip(b"01234567"):
        raise ArchiveError("a size is not eleven octal digits")
    return int(digits, 8)


def _check_tree(entries: Sequence[Entry]) -> None:
    """No path may go through a file, or through a directory that was said to be empty."""
    ends = {entry.path for entry in entries}
    for entry in entries:
        names = entry.path.split(b"/")
        for depth in range(1, len(names)):
            if b"/".join(names[:depth]) in ends:
                raise ArchiveError(f"{shown(entry.path)} lies below what is no directory with content")
