"""Looks at the rows of a matrix challenge: computes them anew, with numpy on one core.

A process of its own, `python -m agent.devnet.attest_rows`: reads an Exhibit (JSON) on stdin, writes {device: what is
wrong} on stdout. In a thread it would hold up the coordinator, and numpy's own threads spin on a busy machine.

Not by Freivalds' check of a product, which is cheaper per row, for there is no product to check: each layer takes the
second bytes of the one before, and that is what makes a row cost all of its multiplications. What the verifier pays for
is to make the common factor, once for all devices and rows (docs/gpus.md, Is it a GPU).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from agent.core.attest.messages import OpenedRow
from agent.core.attest.tree import digest_in, reading_of
from agent.core.attest.words import (
    DIGEST_BYTES,
    Key,
    column_keys,
    first_bytes,
    key_of,
    next_seed,
    row_keys,
    second_bytes,
    words,
)
from agent.core.errors import ProofError
from agent.devnet.core.attesting import Exhibit

Array = Any
"""numpy's arrays: int8 entries, or int32 sums, as said."""
PIECE = 1024
"""Longest sum of products of bytes that 32-bit floats hold exactly: 1024 · 128 · 128 = 2^24."""
BAND = 256
"""Columns of the factor that are made at once: a megabyte or two, which stays in the processor's cache."""


class _Row(NamedTuple):
    """One row that was opened."""

    device: int
    number: int
    opened: OpenedRow


def faults(exhibit: Exhibit) -> dict[str, str]:
    """Device → what is wrong with its rows; empty when all are right."""
    rows = [
        _Row(device, number, opened)
        for device, numbers in enumerate(exhibit.rows)
        for number, opened in zip(numbers, exhibit.opened[device], strict=True)
    ]
    first, again = _expected(exhibit, rows)
    found: dict[str, str] = {}
    for at, row in enumerate(rows):
        if fault := _fault(exhibit, row, first[at].tobytes(), again[at].tobytes()):
            found.setdefault(exhibit.works[row.device].device, fault)
    return found


def _fault(exhibit: Exhibit, row: _Row, first: bytes, again: bytes) -> str:
    """What is wrong with one row, whose digests are `first` and `again`; empty when nothing is."""
    try:
        return _first_fault(exhibit, row, first) or _second_fault(exhibit, row, again)
    except ProofError as error:
        return f"row {row.number} is not what was committed to: {error.message}"


def _first_fault(exhibit: Exhibit, row: _Row, digest: bytes) -> str:
    told = digest_in(row.opened.first, exhibit.roots[row.device], row.number, exhibit.works[row.device].rows)
    return "" if told == digest else f"row {row.number} is not the product"


def _second_fault(exhibit: Exhibit, row: _Row, digest: bytes) -> str:
    work = exhibit.works[row.device]
    kept = row.number - (work.rows - work.kept)
    if kept < 0:
        return ""
    if row.opened.again is None:
        return f"row {row.number} was to be kept, and is not opened again"
    root = exhibit.roots_again[row.device][reading_of(row.number)]
    told = digest_in(row.opened.again, root, kept, work.kept)
    return "" if told == digest else f"row {row.number} is another one when read again"


def _expected(exhibit: Exhibit, rows: list[_Row]) -> tuple[Array, Array]:
    """The digests of all rows under both seeds: len(rows) × 8 bytes each."""
    columns = exhibit.columns
    entries = np.concatenate([_made(exhibit, row) for row in rows])
    layers = np.array([exhibit.works[row.device].layers for row in rows])
    factor = list(_bands(key_of(exhibit.seed, "B"), columns))
    for layer in range(int(layers.max())):
        more = layers > layer
        entries[more] = _next(entries[more], factor)
    again = [_digests(entries[at : at + 1], _seed_of(exhibit, row), columns) for at, row in enumerate(rows)]
    return _digests(entries, exhibit.seed, columns), np.concatenate(again)


def _seed_of(exhibit: Exhibit, row: _Row) -> str:
    """Of the reading in which this row is looked at: it follows from the roots before."""
    seed = exhibit.seed_again
    for root in exhibit.roots_again[row.device][: reading_of(row.number)]:
        seed = next_seed(seed, root)
    return seed


def _made(exhibit: Exhibit, row: _Row) -> Array:
    """The first factor's row, 1 × columns."""
    key = key_of(exhibit.seed, f"A/{exhibit.works[row.device].device}")
    return _matrix(key, [row.number], exhibit.columns)


def _matrix(key: Key, numbers: Iterable[int], columns: int) -> Array:
    rows = row_keys(np.array(list(numbers), dtype=np.int32), key)
    return words(rows, column_keys(np.arange(columns // 4, dtype=np.int32), key)).view(np.int8)


def _bands(key: Key, columns: int) -> Iterator[Array]:
    """The common factor, transposed, a band at a time."""
    across = column_keys(np.arange(columns // 4, dtype=np.int32), key)
    for first in range(0, columns, BAND):
        numbers = np.arange(first, min(first + BAND, columns), dtype=np.int32)
        yield words(row_keys(numbers, key), across).view(np.int8)


def _next(entries: Array, factor: list[Array]) -> Array:
    return np.concatenate([second_bytes(_product(entries, band), np.int8) for band in factor], axis=1)


def _digests(entries: Array, seed: str, columns: int) -> Array:
    across = _matrix(key_of(seed, "R"), range(DIGEST_BYTES), columns)
    return np.ascontiguousarray(first_bytes(_product(entries, across), np.int8))


def _product(rows: Array, across: Array) -> Array:
    """rows · acrossᵀ in 32-bit integers, exactly."""
    total = np.zeros((len(rows), len(across)), dtype=np.int32)
    for at in range(0, rows.shape[1], PIECE):
        left, right = (it[:, at : at + PIECE].astype(np.float32) for it in (rows, across))
        total += (left @ right.T).astype(np.int32)
    return total


if __name__ == "__main__":
    exhibit_ = msgspec.json.decode(sys.stdin.buffer.read(), type=Exhibit)
    sys.stdout.buffer.write(msgspec.json.encode(faults(exhibit_)))
