"""Which tokens a number may draw when one's own log-probabilities are not quite those that drew it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import exp, fsum, inf, log

from agent.core.checks import chain
from agent.core.checks.claims import Position, Sampler
from agent.core.checks.sampling import distance

_SURE = 0.2
"""Of honest engines in different classes, log-probabilities differ by 0.02–0.04: none crosses so much."""
_FAR = 0.5
"""What no engine of the same model was ever off: see `forward.FAR_BEHIND`."""
_LARGEST = 500.0
"""Of exponents: a float holds e^709."""


def certain_draw(position: Position, sampler: Sampler, number: float) -> int | None:
    """The token that `number` draws, when no noise could make it another one; `position.token` does not matter."""
    found = _draws(position, sampler, number, _SURE)
    return found[0] if len(found) == 1 else None


def possible_draws(position: Position, sampler: Sampler, number: float) -> tuple[int, ...]:
    """The tokens that `number` may draw whatever the noise, nearest first; `position.token` does not matter. Empty when
    the list does not tell.
    """
    return _draws(position, sampler, number, _FAR)


def _draws(position: Position, sampler: Sampler, number: float, noise: float) -> tuple[int, ...]:
    """Where any log-probability may be off by `noise` beside the others."""
    listed = position.logprobs
    ranks = _ranks(position, sampler, number, noise)
    if ranks and ranks[-1] == len(listed) - 1 and _likeliest_unlisted(listed) >= listed[-1] - noise:
        return ()  # it may as well be one of those
    if not sampler.greedy:
        ranks.sort(key=lambda rank: distance(position._replace(token=position.ids[rank]), listed, sampler, number) or 0)
    return tuple(position.ids[rank] for rank in ranks)


def _ranks(position: Position, sampler: Sampler, number: float, noise: float) -> list[int]:
    listed = position.logprobs
    if sampler.greedy:
        return [rank for rank, logprob in enumerate(listed) if listed[0] - logprob <= noise]
    borders = [chain.shares(listed[:count], sampler.temperature) for count in _counts(position, sampler, noise)]
    by, slack = noise / sampler.temperature, chain.slack(sampler)
    falling = [-logprob for logprob in listed]

    def reached(rank: int, shares: Sequence[float]) -> bool:
        """The tokens from `first` to `last` may stand in any order."""
        first, last = bisect_left(falling, falling[rank] - noise), bisect_right(falling, falling[rank] + noise) - 1
        if first >= len(shares):
            return False
        low, high = shares[first - 1] if first else 0.0, shares[min(last, len(shares) - 1)]
        return _shifted(low, -by) - slack <= number <= _shifted(high, by) + slack

    return [rank for rank in range(len(listed)) if any(reached(rank, shares) for shares in borders)]


def _counts(position: Position, sampler: Sampler, noise: float) -> range:
    """How many candidates the chain may leave; empty when the list does not tell."""
    fewest = sampler._replace(top_p=_shifted(sampler.top_p, -noise), min_p=min(sampler.min_p * exp(noise), 1.0))
    most = sampler._replace(top_p=_shifted(sampler.top_p, noise), min_p=sampler.min_p * exp(-noise))
    low, high = chain.kept(position, fewest), chain.kept(position, most)
    return range(low.start, high.stop) if low and high else range(0)


def _shifted(share: float, by: float) -> float:
    """A share of the whole, once its log-odds are `by` higher."""
    if not 0 < share < 1:
        return share
    odds = share / (1 - share) * exp(min(by, _LARGEST))
    return odds / (1 + odds)


def _likeliest_unlisted(listed: Sequence[float]) -> float:
    """The most that the log-probability of a token outside the list can be."""
    rest = 1 - fsum(map(exp, listed))
    return min(listed[-1], log(rest)) if rest > chain.SLACK else -inf
