"""Matrices on the processor: what a node without a GPU answers with, honestly and slowly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

PIECE = 1024
"""Longest sum of products of bytes that 32-bit floats hold exactly: 1024 · 128 · 128 = 2^24."""
KEPT_BYTES = 64 << 20


class NumpyArrays:
    """Implements matrix.Arrays with numpy."""

    int8 = np.int8
    chunk_rows = 1024
    spare_bytes = 0

    def free_bytes(self) -> int:
        return KEPT_BYTES

    def count(self, first: int, end: int) -> Any:
        return np.arange(first, end, dtype=np.int32)

    def factor(self, entries: Any) -> Any:
        return [_floats(entries, at).T for at in range(0, entries.shape[1], PIECE)]

    def product(self, rows: Any, factor: Any) -> Any:
        total = np.zeros((len(rows), factor[0].shape[1]), dtype=np.int32)
        for number, piece in enumerate(factor):
            total += (_floats(rows, number * PIECE) @ piece).astype(np.int32)
        return total

    def store(self, size_bytes: int) -> Any:
        return np.zeros(size_bytes, dtype=np.int8)

    def raw(self, parts: Sequence[Any]) -> bytes:
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def _floats(entries: Any, at: int) -> Any:
    return np.ascontiguousarray(entries[:, at : at + PIECE], dtype=np.float32)
