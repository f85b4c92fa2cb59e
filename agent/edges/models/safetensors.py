"""Reads the headers of safetensors files, and the `config.json` beside them. Nothing is allocated by what a header
claims."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from agent.core.gguf import HeaderError
from agent.core.model_memory import ModelShape
from agent.core.safetensors import shape_with

_MOST_BYTES = 100 << 20
"""The format's own limit of a header."""
_CONFIG_BYTES = 4 << 20
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")


class _Stored(msgspec.Struct):
    data_offsets: tuple[int, int]


def safetensors_shape(path: Path) -> ModelShape:
    """Of a file, or of all parts where the model is split. Without a config.json beside it, weights alone are told.

    Raises HeaderError, OSError.
    """
    weights_bytes = sum(map(_weights_bytes, _parts(path)))
    config = path.with_name("config.json")
    if not config.is_file():
        return ModelShape(architecture="safetensors", weights_bytes=weights_bytes)
    with config.open("rb") as file:
        text = file.read(_CONFIG_BYTES)
    try:
        told = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise HeaderError(f"its config.json is not readable: {fault}") from fault
    return shape_with(weights_bytes, told)


def _parts(path: Path) -> list[Path]:
    split = _PART.fullmatch(path.name)
    if split is None or not 1 <= int(split[3]) <= 1000:
        return [path]
    return [
        path.with_name(f"{split[1]}-{number:05}-of-{split[3]}.safetensors") for number in range(1, int(split[3]) + 1)
    ]


def _weights_bytes(path: Path) -> int:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(size - 8, _MOST_BYTES):
            raise HeaderError("it is neither a GGUF nor a safetensors file")
        text = file.read(length)
    try:
        listed = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        listed.pop("__metadata__", None)
        tensors = [msgspec.json.decode(one, type=_Stored).data_offsets for one in listed.values()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise HeaderError(f"its safetensors header is not readable: {fault}") from fault
    if any(not 0 <= begin <= end <= size - 8 - length for begin, end in tensors):
        raise HeaderError("a tensor lies beyond the end of the file: it is cut short")
    return sum(end - begin for begin, end in tensors)
