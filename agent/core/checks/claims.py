"""What a transcript claims, token by token, and by which sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from agent.core.proof.header import Header
from agent.core.proof.opening import AnyLeaf, BareLeaf
from agent.core.proof.transcript import LeafKind

_MICRO = 1_000_000
# llama-server's sum over the vocabulary is in float32: it may be off by a few millionths.
_MOST_IN_ALL = 1.001


class Position(NamedTuple):
    """One generated token and its candidates, claimed or recomputed. `ids` and `logprobs` (natural logarithms) run
    parallel, most likely first.
    """

    token: int | None
    """None when the engine withheld it."""
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    opened: bool = True
    """False: the leaf is not shown in full. The token is then what the node says it is, without candidates."""

    def rank(self) -> int | None:
        """Where the token stands among the candidates, from 0; None when it does not."""
        return self.ids.index(self.token) if self.token in self.ids else None


class Chunk(NamedTuple):
    """One opened leaf of tokens."""

    leaf: int
    start: int
    """Position of its first token."""
    positions: tuple[Position, ...]


class Sampler(NamedTuple):
    """How tokens were to be drawn: top_k, top_p, min_p, temperature, in this order."""

    seed: int
    temperature: float
    """0 or less is greedy."""
    top_k: int
    """0 or less is all."""
    top_p: float
    min_p: float
    min_keep: int
    """Candidates that truncation always leaves."""

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature <= 0 or self.top_k == 1


def positions(leaves: Sequence[AnyLeaf]) -> tuple[Position, ...]:
    """Every generated token in order. Each piece of text without an id stands for one token that was withheld."""
    return tuple(position for leaf in leaves for position in _of_leaf(leaf))


def chunks(leaves: Sequence[AnyLeaf]) -> tuple[Chunk, ...]:
    """The opened leaves of tokens, each with the position at which it starts."""
    found, start = [], 0
    for leaf in leaves:
        if leaf.kind is LeafKind.TOKENS and not isinstance(leaf, BareLeaf):
            found.append(Chunk(leaf.index, start, _of_leaf(leaf)))
        start += leaf.count
    return tuple(found)


def sampler(header: Header) -> Sampler:
    """The sampler that the header promises. Only meaningful where `header.samplers` names our chain."""
    return Sampler(
        seed=header.seed,
        temperature=header.temperature_micros / _MICRO,
        top_k=header.top_k,
        top_p=header.top_p_micros / _MICRO,
        min_p=header.min_p_micros / _MICRO,
        min_keep=header.min_keep,
    )


def well_formed(position: Position) -> bool:
    """Whether the candidates can be a model's: each once, most likely first, with probabilities that add up."""
    logprobs = position.logprobs
    return (
        len(set(position.ids)) == len(logprobs) > 0
        and -math.inf < logprobs[0] < _MOST_IN_ALL
        and all(one >= other for one, other in pairwise(logprobs))
        and sum(map(math.exp, logprobs)) <= _MOST_IN_ALL
    )


def _of_leaf(leaf: AnyLeaf) -> tuple[Position, ...]:
    if leaf.kind is LeafKind.TEXT:
        return (Position(None, opened=not isinstance(leaf, BareLeaf)),) * leaf.count
    if isinstance(leaf, BareLeaf):
        return tuple(Position(token, opened=False) for token in leaf.ids)
    return tuple(
        Position(token, tuple(number for number, _ in listed), tuple(logprob for _, logprob in listed))
        for token, listed in zip(leaf.ids, leaf.candidates, strict=True)
    )
