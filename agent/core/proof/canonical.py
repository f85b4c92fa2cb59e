"""Canonical bytes: one value has exactly one encoding, and a reader takes no other (docs/proof.md, Encoding).

Integers are fixed-width little-endian; text and bytes carry a u32 length; nothing is padded, nothing may follow.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from agent.core.errors import ProofError

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

MAX_TEXT_BYTES = 64 << 10
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Domain(StrEnum):
    """Tags that keep hashes made for one purpose apart from those made for another."""

    LEAF = "pos/v1/leaf"
    NODE = "pos/v1/node"
    ROOT = "pos/v1/root"


def tagged_hash(domain: Domain, *parts: bytes) -> bytes:
    """SHA-256 over tag, a zero byte, and `parts`, whose lengths the caller has fixed."""
    state = hashlib.sha256(domain.encode() + b"\x00")
    for part in parts:
        state.update(part)
    return state.digest()


def malformed(message: str) -> ProofError:
    """The bytes, or the value to be written, are not what the format allows."""
    return ProofError("encoding", message)


class Reader:
    """Takes an encoding apart, front to back. Every method raises ProofError("encoding")."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes: refused before anything is allocated when they are not there."""
        if count > self.left:
            raise malformed(f"{count} bytes are announced at offset {self._at}, {self.left} are left")
        self._at += count
        return self._raw[self._at - count : self._at]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next values of a little-endian layout."""
        return layout.unpack(self.take(layout.size))

    @property
    def left(self) -> int:
        """Bytes that were not taken."""
        return len(self._raw) - self._at

    def end(self) -> None:
        """Nothing may follow."""
        if self.left:
            raise malformed(f"{self.left} bytes follow the end")


@dataclass(frozen=True)
class Codec(Generic[T]):
    """How one kind of value is written and read."""

    write: Callable[[T], bytes]
    read: Callable[[Reader], T]


def _integer(layout: str) -> Codec[int]:
    packer = struct.Struct(f"<{layout}")

    def write(value: int) -> bytes:
        try:
            return packer.pack(value)
        except struct.error as error:
            raise malformed(f"{value} does not fit {packer.size} bytes") from error

    def read(reader: Reader) -> int:
        value: int = reader.unpack(packer)[0]
        return value

    return Codec(write, read)


U8, U16, U32, U64, I64 = (_integer(layout) for layout in "BHIQq")


def _write_bytes(value: bytes) -> bytes:
    return U32.write(len(value)) + value


BYTES: Codec[bytes] = Codec(_write_bytes, lambda reader: reader.take(U32.read(reader)))
"""u32 length, then the bytes; as long as the input is."""


def _write_text(value: str) -> bytes:
    try:
        raw = value.encode()
    except UnicodeEncodeError as error:
        raise malformed("text holds a lone surrogate") from error
    if len(raw) > MAX_TEXT_BYTES:
        raise malformed(f"text of {len(raw)} bytes is over {MAX_TEXT_BYTES}")
    return _write_bytes(raw)


def _read_text(reader: Reader) -> str:
    length = U32.read(reader)
    if length > MAX_TEXT_BYTES:
        raise malformed(f"text of {length} bytes is over {MAX_TEXT_BYTES}")
    try:
        return reader.take(length).decode()
    except UnicodeDecodeError as error:
        raise malformed("text is not UTF-8") from error


TEXT = Codec(_write_text, _read_text)
"""UTF-8 in its shortest form, at most MAX_TEXT_BYTES, not normalised."""


def _write_digest(value: str) -> bytes:
    if not _HEX_DIGEST.match(value):
        raise malformed(f"{value[:80]!r} is not 64 lower-case hex digits")
    return bytes.fromhex(value)


DIGEST: Codec[str] = Codec(_write_digest, lambda reader: reader.take(32).hex())
"""32 raw bytes; 64 lower-case hex digits in the value."""


def optional(codec: Codec[str]) -> Codec[str]:
    """One byte, 0 or 1, then the value when it is 1; the empty string stands for none."""

    def write(value: str) -> bytes:
        return b"\x01" + codec.write(value) if value else b"\x00"

    def read(reader: Reader) -> str:
        match U8.read(reader):
            case 0:
                return ""
            case 1:
                return codec.read(reader)
            case flag:
                raise malformed(f"{flag} is no flag")

    return Codec(write, read)


def sequence(codec: Codec[T], most: int) -> Codec[tuple[T, ...]]:
    """u32 count, at most `most`, then the items."""

    def write(value: tuple[T, ...]) -> bytes:
        if len(value) > most:
            raise malformed(f"{len(value)} items are over {most}")
        return U32.write(len(value)) + b"".join(codec.write(item) for item in value)

    def read(reader: Reader) -> tuple[T, ...]:
        count = U32.read(reader)
        if count > most:
            raise malformed(f"{count} items are over {most}")
        return tuple(codec.read(reader) for _ in range(count))

    return Codec(write, read)


def choice(numbers: Mapping[E, int]) -> Codec[E]:
    """One byte for a member of a closed set."""
    members = {number: member for member, number in numbers.items()}

    def read(reader: Reader) -> E:
        number = U8.read(reader)
        if number not in members:
            raise malformed(f"{number} is none of {sorted(members)}")
        return members[number]

    def write(value: E) -> bytes:
        if value not in numbers:
            raise malformed(f"{value} is none of {sorted(numbers)}")
        return U8.write(numbers[value])

    return Codec(write, read)
