"""Columns for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A line for each row, its cells aligned with those of the others."""
    filled = list(rows)
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    for row in filled:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def headed(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A blank line, the head and the rows; nothing at all where there are none."""
    filled = list(rows)
    if filled:
        yield ""
        yield from table([head, *filled])
