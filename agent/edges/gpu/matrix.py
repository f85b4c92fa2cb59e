"""One device's answer to the matrix challenge, whatever library multiplies. Runs in a child process alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from agent.core.attest.messages import OpenedRow, Work
from agent.core.attest.sizing import shortage
from agent.core.attest.tree import READINGS, Digests, reading_of
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

Array = Any
"""Of the library: int8 entries, int32 sums."""


class Arrays(Protocol):
    """What is needed of a library of arrays."""

    int8: Any
    chunk_rows: int
    """Rows that are worked on at once."""
    spare_bytes: int
    """What is needed besides the memory that is filled with results."""

    def free_bytes(self) -> int:
        """Of the device now."""
        ...

    def count(self, first: int, end: int) -> Array:
        """int32: first, first + 1, … end - 1."""
        ...

    def factor(self, entries: Array) -> Any:
        """Entries (n × k), made ready to be multiplied with."""
        ...

    def product(self, rows: Array, factor: Any) -> Array:
        """rows (m × k) · factorᵀ in 32-bit integers, exactly; m × n."""
        ...

    def store(self, size_bytes: int) -> Array:
        """Flat memory of the device, which really is there when this returns."""
        ...

    def raw(self, parts: Sequence[Array]) -> bytes:
        """Their bytes, in order."""
        ...


class Answer:
    """The state of one challenge on one device."""

    def __init__(self, arrays: Arrays, columns: int, reserve_bytes: int = 0) -> None:
        """`reserve_bytes`: what is left free of what could be filled. Raises ValueError when that is not to be had."""
        self._arrays = arrays
        self._columns = columns
        self._across = arrays.count(0, columns // 4)
        free_bytes = arrays.free_bytes()
        if why := shortage(free_bytes, arrays.spare_bytes, reserve_bytes):
            raise ValueError(why)
        self.free_bytes = free_bytes - arrays.spare_bytes - reserve_bytes
        self._store = arrays.store(self.free_bytes)
        self._work = Work(device="", rows=0, kept=0)
        self._first = Digests(b"")
        self._again: list[Digests] = []

    def warm_up(self) -> None:
        """Have libraries loaded and kernels chosen before the clock runs."""
        for rows in {self._arrays.chunk_rows, 1}:
            self.commit("00" * 32, Work(device="warm-up", rows=rows, kept=0))

    def commit(self, seed: str, work: Work) -> str:
        """Compute all rows, keep the last ones, and return the root over the digests of all.

        Raises ValueError when there is no room for those.
        """
        if work.kept * self._columns > self.free_bytes:
            raise ValueError(f"{work.kept} rows do not fit into {self.free_bytes} bytes")
        arrays, self._work = self._arrays, work
        factor = arrays.factor(self._matrix(key_of(seed, "B"), 0, self._columns))
        fold = self._fold(seed)
        key = key_of(seed, f"A/{work.device}")
        parts = []
        for first, end in self._chunks(work):
            entries = self._matrix(key, first, end)
            for _ in range(work.layers):
                entries = second_bytes(arrays.product(entries, factor), arrays.int8)
            if first >= work.rows - work.kept:
                self._kept(first, end)[:] = entries
            parts.append(fold(entries))
        self._first = Digests(arrays.raw(parts))
        return self._first.root

    def reread(self, seed: str) -> tuple[str, ...]:
        """The roots over new digests of the rows that were kept, one for each reading."""
        self._again = []
        for _ in range(READINGS):
            self._again.append(self._read(seed))
            seed = next_seed(seed, self._again[-1].root)
        return tuple(it.root for it in self._again)

    def _read(self, seed: str) -> Digests:
        fold, work = self._fold(seed), self._work
        kept = (chunk for chunk in self._chunks(work) if chunk[0] >= work.rows - work.kept)
        return Digests(self._arrays.raw([fold(self._kept(first, end)) for first, end in kept]))

    def open(self, rows: Sequence[int]) -> tuple[OpenedRow, ...]:
        """The digests of these rows, and where they stand."""
        before = self._work.rows - self._work.kept
        return tuple(
            OpenedRow(
                first=self._first.open(row),
                again=self._again[reading_of(row)].open(row - before) if row >= before else None,
            )
            for row in rows
        )

    def _chunks(self, work: Work) -> Iterator[tuple[int, int]]:
        """From and to; what is kept begins with a chunk of its own."""
        before = work.rows - work.kept
        for start, stop in ((0, before), (before, work.rows)):
            for first in range(start, stop, self._arrays.chunk_rows):
                yield first, min(first + self._arrays.chunk_rows, stop)

    def _kept(self, first: int, end: int) -> Array:
        before = self._work.rows - self._work.kept
        n = self._columns
        return self._store[(first - before) * n : (end - before) * n].reshape(end - first, n)

    def _matrix(self, key: Key, first: int, end: int) -> Array:
        rows = row_keys(self._arrays.count(first, end), key)
        return words(rows, column_keys(self._across + 0, key)).view(self._arrays.int8)

    def _fold(self, seed: str) -> Callable[[Array], Array]:
        """Makes digests of rows: m × columns to m × 8 bytes."""
        arrays = self._arrays
        factor = arrays.factor(self._matrix(key_of(seed, "R"), 0, DIGEST_BYTES))
        return lambda entries: first_bytes(arrays.product(entries, factor), arrays.int8)
