"""llama.cpp's sampler chain, replayed on listed log-probabilities: which candidates it keeps, and with what share.

A cut-off that falls between two candidates by less than the arithmetic's error may fall on either side: then the chain
has several outcomes, and each is as good as the others.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from agent.core.checks.claims import Position, Sampler

SLACK = 1e-4
"""On probabilities. llama.cpp computes in float32: measured errors are below 1e-5; a cheat gains as little by it."""
_SLACK_LOGPROB = 2e-6
"""Rounding of a log-probability near −20 to float32. Dividing by the temperature magnifies it."""


def slack(sampler: Sampler) -> float:
    """How far from its interval a random number may fall by rounding alone."""
    return SLACK if sampler.greedy else SLACK + _SLACK_LOGPROB / sampler.temperature


def shares(logprobs: Sequence[float], temperature: float) -> list[float]:
    """Cumulative probability of the candidates that were kept, in their order; the last is 1."""
    best = max(logprobs)
    weights = [math.exp((logprob - best) / temperature) for logprob in logprobs]
    whole = sum(weights)
    return [part / whole for part in accumulate(weights)]


def kept(position: Position, sampler: Sampler) -> range | None:
    """How many candidates the chain leaves: every count that rounding allows.

    None when the list ends before the chain's cut: then the draw depends on candidates that nobody told.
    """
    listed = len(position.logprobs)
    if listed == 0:
        return None
    limit = sampler.top_k if 0 < sampler.top_k <= listed else listed
    whole = limit == sampler.top_k  # top_k alone already cuts within the list
    fewest, most = _nucleus(position.logprobs[:limit], sampler, whole)
    low, high = _above_floor(position.logprobs[:limit], sampler)
    if not whole and most > limit and (high >= limit or _unsorted(sampler)):
        return None
    least = min(sampler.min_keep, limit) or 1
    return range(max(min(fewest, low), least), max(min(most, high, limit), least) + 1)


def _unsorted(sampler: Sampler) -> bool:
    """Without top_k and top_p nothing sorts the candidates, and they are drawn by the order of the vocabulary."""
    return sampler.top_k <= 0 and sampler.top_p >= 1


def _nucleus(logprobs: Sequence[float], sampler: Sampler, whole: bool) -> tuple[int, int]:
    """Fewest and most candidates after top_p; one more than listed when it does not close within the list."""
    if sampler.top_p >= 1:
        return len(logprobs) + (not whole), len(logprobs) + (not whole)
    cumulative = list(accumulate(map(math.exp, logprobs)))
    least, most = _mass(logprobs, cumulative[-1], sampler, whole)
    fewest = bisect_left(cumulative, least * (sampler.top_p - SLACK)) + 1
    highest = bisect_left(cumulative, most * (sampler.top_p + SLACK)) + 1
    return (min(fewest, len(logprobs)), min(highest, len(logprobs))) if whole else (fewest, highest)


def _mass(logprobs: Sequence[float], listed: float, sampler: Sampler, whole: bool) -> tuple[float, float]:
    """Bounds of the probability that top_p is a share of: all that top_k left, also what is not listed."""
    if whole:
        return listed, listed
    if sampler.top_k <= 0:
        return 1.0, 1.0
    unlisted = (sampler.top_k - len(logprobs)) * math.exp(logprobs[-1])
    return listed, min(1.0, listed + unlisted)


def _above_floor(logprobs: Sequence[float], sampler: Sampler) -> tuple[int, int]:
    """Fewest and most candidates after min_p."""
    if sampler.min_p <= 0:
        return len(logprobs), len(logprobs)
    floor = logprobs[0] + math.log(sampler.min_p)
    falling = [-logprob for logprob in logprobs]
    return bisect_left(falling, -floor - SLACK), bisect_right(falling, -floor + SLACK)
