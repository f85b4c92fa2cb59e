"""Reads the headers of model files: GGUF here, safetensors beside it. Nothing is allocated by what a header claims."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agent.core.errors import ModelError
from agent.core.gguf import Header, HeaderError, Scalar, Tensor, Told, shape_of
from agent.core.model_memory import ModelShape
from agent.edges.models.safetensors import safetensors_shape

MOST_BYTES = 64 << 20
"""Of a header. The largest known ones, with 262,144 tokens and as many merges, have about 16 MiB."""
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 17
_MOST_DIMENSIONS = 8
_NAME_BYTES = 1 << 16
_KEPT = 4096
"""Arrays up to this length are kept (one value a layer); of longer ones the length is told."""
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def model_shape(path: Path) -> ModelShape:
    """What the file's header tells, of all parts where the model is split into several. Reads at most 64 MiB of each.

    Raises ModelError for a file that cannot be read or is no sound GGUF or safetensors file.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic == b"GGUF":
            return shape_of([_header(part) for part in _parts(path)])
        return safetensors_shape(path)
    except HeaderError as fault:
        raise ModelError(f"{path}: {fault}", remedy="Fetch the model again, or take another file") from fault
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", remedy="Check the disk and the file") from error


def _parts(path: Path) -> list[Path]:
    split = _PART.fullmatch(path.name)
    if split is None or not 1 <= int(split[3]) <= 1000:
        return [path]
    return [path.with_name(f"{split[1]}-{number:05}-of-{split[3]}.gguf") for number in range(1, int(split[3]) + 1)]


def _header(path: Path) -> Header:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        reader = _Reader(file, min(size, MOST_BYTES))
        if reader.take(4) != b"GGUF":
            raise HeaderError("it is no GGUF file")
        version = reader.number("<I")
        if version not in (2, 3):
            raise HeaderError(f"it is GGUF version {version}; 2 and 3 are known")
        count = reader.count("<Q", _MOST_TENSORS, "tensors")
        told, lengths = _keys(reader)
        tensors = tuple(_tensors(reader, count))
        step = told.get("general.alignment", 32)
        if not isinstance(step, int) or not 1 <= step <= 1 << 20:
            raise HeaderError(f"its alignment is {str(step)[:40]}")
        start = -(-reader.taken // step) * step
        return Header(told=told, lengths=lengths, tensors=tensors, data_bytes=max(size - start, 0))


def _keys(reader: _Reader) -> tuple[dict[str, Told], dict[str, int]]:
    told: dict[str, Told] = {}
    lengths: dict[str, int] = {}
    for _ in range(reader.count("<Q", _MOST_KEYS, "keys")):
        key, kind = reader.text(_NAME_BYTES), reader.number("<I")
        if kind != _ARRAY:
            told[key] = reader.scalar(kind)
            continue
        kind, length = reader.number("<I"), reader.number("<Q")
        lengths[key] = length
        if length <= _KEPT:
            told[key] = tuple(reader.scalar(kind) for _ in range(length))
        else:
            reader.pass_over(kind, length)
    return told, lengths


def _tensors(reader: _Reader, count: int) -> Iterator[Tensor]:
    for _ in range(count):
        name = reader.text(_NAME_BYTES)
        for _ in range(reader.count("<I", _MOST_DIMENSIONS, "dimensions")):
            reader.number("<Q")
        reader.number("<I")  # its type: sizes come from the offsets
        yield Tensor(name=name, offset=reader.number("<Q"))


class _Reader:
    """Takes bytes in order, and never more than the file has or a header may."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most
        self.taken = 0

    def take(self, count: int) -> bytes:
        self._count_in(count)
        got = self._file.read(count)
        if len(got) != count:
            raise HeaderError("it ends in the middle of its header")
        return got

    def _count_in(self, count: int) -> None:
        if count > self._most - self.taken:
            raise HeaderError("its header claims more than the file has, or more than 64 MiB")
        self.taken += count

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def count(self, form: str, most: int, what: str) -> int:
        told = self.number(form)
        if told > most:
            raise HeaderError(f"it claims {told:,} {what}, where {most:,} are the most")
        return told

    def text(self, most: int | None = None) -> str:
        length = self.number("<Q")
        if most is not None and length > most:
            raise HeaderError(f"it has a name of {length:,} bytes")
        return self.take(length).decode(errors="replace")

    def scalar(self, kind: int) -> Scalar:
        if kind == _TEXT:
            return self.text()
        if kind not in _NUMBERS:
            raise HeaderError(f"it has a value of the unknown type {kind}")
        form = _NUMBERS[kind]
        value: Scalar = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def pass_over(self, kind: int, length: int) -> None:
        """Skip an array; its length may be any number."""
        if kind in _NUMBERS:
            self._skip(length * struct.calcsize(_NUMBERS[kind]))
        elif kind == _TEXT:
            for _ in range(length):  # each takes 8 bytes at least, so the header's limit ends a lie
                self._skip(self.number("<Q"))
        else:
            raise HeaderError(f"it has an array of the unknown type {kind}")

    def _skip(self, count: int) -> None:
        self._count_in(count)
        self._file.seek(count, os.SEEK_CUR)
