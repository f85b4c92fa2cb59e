"""S: were the tokens drawn by the seed from the log-probabilities that were claimed? Needs no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent.core.checks import chain
from agent.core.checks.claims import Position, Sampler, well_formed
from agent.core.checks.draw import uniforms

_TIE = 1e-6
"""Two candidates so close have one logit: greedy takes either."""


class Sampled(NamedTuple):
    """What S found. Positions count from 0."""

    checked: int
    """Tokens whose draw was replayed."""
    mismatches: tuple[int, ...] = ()
    """Tokens that this seed and sampler do not draw."""
    malformed: tuple[int, ...] = ()
    """Tokens whose candidates are no probabilities, or fewer than promised."""
    uncovered: int = 0
    """Tokens whose draw depends on candidates that are not listed."""
    withheld: int = 0
    """Tokens that the engine showed nobody."""
    unopened: int = 0
    """Tokens of leaves that the node was not asked to show."""

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the claims; see `checked` for how much speaks for them."""
        return not self.mismatches and not self.malformed


def check_sampling(claimed: Sequence[Position], sampler: Sampler, n_probs: int) -> Sampled:
    """Replay every draw. `n_probs` candidates were promised for each token."""
    checked, uncovered, withheld, unopened = 0, 0, 0, 0
    mismatches, malformed = [], []
    for at, (position, number) in enumerate(zip(claimed, uniforms(sampler.seed), strict=False)):
        if not position.opened:
            unopened += 1
        elif position.token is None:
            withheld += 1
        elif n_probs == 0:
            uncovered += 1
        elif len(position.ids) < n_probs or not well_formed(position):
            malformed.append(at)
        elif (fits := drawn(position, sampler, number)) is None:
            uncovered += 1
        else:
            checked += 1
            if not fits:
                mismatches.append(at)
    return Sampled(checked, tuple(mismatches), tuple(malformed), uncovered, withheld, unopened)


def drawn(position: Position, sampler: Sampler, number: float) -> bool | None:
    """Whether `number`, from 0 to 1, draws the position's token; None when the list does not tell."""
    if sampler.greedy:
        rank = position.rank()
        return rank is not None and position.logprobs[0] - position.logprobs[rank] <= _TIE
    counts = chain.kept(position, sampler)
    if counts is None:
        return None
    return _nearest(position, position.logprobs, sampler, number, counts) <= chain.slack(sampler)


def distance(position: Position, own: Sequence[float], sampler: Sampler, number: float) -> float | None:
    """How far `number` lies from the interval that draws the token: 0 inside, 1 when it cannot be drawn at all.

    The interval is that of the claimed candidates, in their order, with the log-probabilities of `own`, which runs
    parallel: two candidates of nearly the same probability change places by noise alone. None when the list does not
    tell. Numbers that are no probabilities draw nothing.
    """
    if not well_formed(position):
        return 1.0
    counts = chain.kept(position, sampler)
    return None if counts is None else _nearest(position, own, sampler, number, counts)


def _nearest(
    position: Position, logprobs: Sequence[float], sampler: Sampler, number: float, counts: Iterable[int]
) -> float:
    rank = position.rank()
    if rank is None:
        return 1.0
    return min(_from_interval(chain.shares(logprobs[:kept], sampler.temperature), rank, number) for kept in counts)


def _from_interval(cumulative: Sequence[float], rank: int, number: float) -> float:
    """A token just behind the cut would have had the interval [1, 1]; one far behind is as far off."""
    if rank >= len(cumulative):
        return 1.0 if rank > len(cumulative) else 1.0 - number
    low = cumulative[rank - 1] if rank else 0.0
    return max(0.0, low - number, number - cumulative[rank])
