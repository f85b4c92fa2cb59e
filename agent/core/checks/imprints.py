"""TOPLOC: are the committed imprints those of hidden states that the model has for these tokens?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from agent.core.errors import ProofError
from agent.core.proof.leaves import Leaf
from agent.core.proof.opening import AnyLeaf
from agent.core.proof.toploc import Distance, Peaks, distance, read_imprint
from agent.core.proof.transcript import LeafKind


class Imprinted(NamedTuple):
    """Of one task."""

    committed: int
    faults: tuple[str, ...] = ()
    """Of imprints of no states at all, such as null ones: an error, and nothing that could pass."""
    distances: tuple[Distance, ...] = ()
    """One for each, from leaf 0 on; none where nobody looked."""
    tokens: tuple[int, ...] = ()
    """Of each distance."""


def read_imprints(leaves: Sequence[AnyLeaf]) -> Imprinted | None:
    """What can be said without a model; None where none were committed to."""
    claimed = committed(leaves)
    return Imprinted(len(claimed), tuple(_faults(claimed))) if claimed else None


def check_imprints(leaves: Sequence[AnyLeaf], own: Sequence[Peaks]) -> Imprinted:
    """Each of them against one's own states of the same tokens. Raises ValueError when one side has more, and
    ProofError for what `read_imprints` finds fault with.
    """
    claimed = committed(leaves)
    distances = tuple(distance(claim, peaks) for claim, peaks in zip(claimed, own, strict=True))
    return Imprinted(len(claimed), (), distances, tuple(leaf.count for leaf in _imprinted(leaves)))


def committed(leaves: Sequence[AnyLeaf]) -> tuple[bytes, ...]:
    """The imprints of the end leaf."""
    end = leaves[-1]
    return end.imprints if isinstance(end, Leaf) else ()


def imprinted_ids(leaves: Iterable[AnyLeaf]) -> tuple[int, ...]:
    """The tokens that they are of."""
    return tuple(token for leaf in _imprinted(leaves) for token in leaf.ids)


def _imprinted(leaves: Iterable[AnyLeaf]) -> Iterable[AnyLeaf]:
    return takewhile(lambda leaf: leaf.kind is LeafKind.TOKENS, leaves)


def _faults(claimed: Iterable[bytes]) -> Iterable[str]:
    for leaf, raw in enumerate(claimed):
        try:
            read_imprint(raw)
        except ProofError as error:
            yield f"leaf {leaf}: {error.message}"
