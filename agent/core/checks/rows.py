"""Rows of output numbers, such as embeddings: equal to the bit, or how nearly parallel. Nothing is drawn there."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import hypot
from typing import NamedTuple

from agent.core.proof.leaves import Leaf
from agent.core.proof.transcript import LeafKind

Row = Sequence[float]


class Rows(NamedTuple):
    """What comparing found."""

    compared: int
    equal: int
    """Rows that are the same bits as float32."""
    cosines: tuple[float, ...] = ()
    """Of each row with its counterpart; 1 is the same direction."""

    @property
    def least(self) -> float:
        """The worst cosine; 1 when there are no rows."""
        return min(self.cosines, default=1.0)


def rows_of(leaves: Sequence[Leaf]) -> tuple[tuple[float, ...], ...]:
    """The rows of a transcript, in order."""
    return tuple(leaf.row for leaf in leaves if leaf.kind is LeafKind.ROW)


def check_rows(claimed: Sequence[Row], recomputed: Sequence[Row]) -> Rows:
    """Compare row by row; a row that is missing or of another width is parallel to nothing."""
    pairs = list(zip(claimed, recomputed, strict=False))
    missing = abs(len(claimed) - len(recomputed))
    return Rows(
        compared=len(pairs) + missing,
        equal=sum(_bits(one) == _bits(other) for one, other in pairs),
        cosines=(*(_cosine(one, other) for one, other in pairs), *[0.0] * missing),
    )


def _cosine(one: Row, other: Row) -> float:
    lengths = hypot(*one) * hypot(*other)
    if len(one) != len(other) or not 0 < lengths < float("inf"):
        return 0.0
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


def _bits(row: Row) -> bytes | None:
    """None for numbers that no float32 can be."""
    try:
        return struct.pack(f"<{len(row)}f", *row)
    except OverflowError:
        return None
