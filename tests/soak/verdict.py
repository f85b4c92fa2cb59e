"""Does it grow? Pure: points go in, a verdict comes out.

A slope by Theil and Sen, the median over all pairs of points, is moved neither by single peaks nor by a sawtooth such
as a write-ahead log's, and follows a staircase. It is judged within one life of a process, after the time in which that
warms up: what grew is the slope times the rest of that life, and what may grow is the rule's. A longer run divides the
same allowance by more time, so it sees a slower leak.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

POINTS_MIN = 12
"""Fewer say nothing."""
POINTS_MAX = 400
"""More are thinned out: there are 80,000 pairs of so many."""


class Point(NamedTuple):
    """One reading."""

    at_s: float
    tasks: int
    """Ended so far."""
    value: float
    life: int = 0
    """Of the process; 0 for what outlives it."""


class Rule(NamedTuple):
    """What may grow, in the gauge's unit: so much in all, and so much for every task of the last `kept_s`.

    `lowest_of`: of so many readings in a row only the lowest counts. What follows the load stands above it for a
    while; what leaks lifts it.
    """

    unit: str
    in_all: float
    a_task: float = 0.0
    kept_s: float = float("inf")
    lowest_of: int = 1


class Verdict(NamedTuple):
    """What became of one gauge. `grows` is None where there was too little to judge by."""

    points: int
    first: float
    """Median of the first third of what was judged."""
    last: float
    an_hour: float
    grew: float
    allowed: float
    grows: bool | None


def judge(points: Sequence[Point], rule: Rule, warm_s: float) -> Verdict:
    """By the longest life, without its first `warm_s`."""
    life = longest_life(points)
    seen = thinned(lowest([point for point in life if point.at_s >= life[0].at_s + warm_s], rule.lowest_of))
    if len(seen) < POINTS_MIN:
        value = points[-1].value if points else 0.0
        return Verdict(len(seen), value, value, 0.0, 0.0, rule.in_all, None)
    slope = theil_sen([(point.at_s, point.value) for point in seen])
    lasted_s = seen[-1].at_s - seen[0].at_s
    allowed = rule.in_all + rule.a_task * _tasks_kept(seen, rule.kept_s)
    third = len(seen) // 3
    first, last = (statistics.median(p.value for p in part) for part in (seen[:third], seen[-third:]))
    grew = slope * lasted_s
    return Verdict(len(seen), first, last, slope * 3600, grew, allowed, grew > allowed)


def longest_life(points: Sequence[Point]) -> list[Point]:
    """The points of the life that was seen longest."""
    lives: dict[int, list[Point]] = {}
    for point in points:
        lives.setdefault(point.life, []).append(point)
    return max(lives.values(), key=lambda life: life[-1].at_s - life[0].at_s, default=[])


def lowest(points: Sequence[Point], many: int) -> list[Point]:
    """The lowest of each `many` in a row."""
    return [min(points[start : start + many], key=lambda point: point.value) for start in range(0, len(points), many)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most POINTS_MAX of them, the last one among them."""
    step = -(-len(points) // POINTS_MAX)
    return list(points[::-step])[::-1] if points else []


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """Median slope over all pairs of different x."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]]
    return statistics.median(slopes) if slopes else 0.0


def _tasks_kept(points: Sequence[Point], kept_s: float) -> int:
    """Most tasks that ended within any `kept_s`: what is kept only so long cannot grow by more of them."""
    most, start = 0, 0
    for end in points:
        while points[start].at_s < end.at_s - kept_s:
            start += 1
        most = max(most, end.tasks - points[start].tasks)
    return most
