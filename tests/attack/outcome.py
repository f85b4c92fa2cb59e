"""What became of one attack, and of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

from agent.core.checks.forward import Plausibility
from agent.core.checks.verdict import Judged, Metrics, Thresholds, Verdict, judge

_Z = 1.96
"""Of a 95 % interval."""


class Found(NamedTuple):
    """Of one task."""

    verdict: Verdict | None
    """None: it did not even come to a verdict, coordinator or receipt refused it."""
    by: tuple[str, ...] = ()
    """What speaks against it: S, ending, prompt, F, T, X, or the check of the receipt that refused it."""
    metrics: Metrics | None = None

    @classmethod
    def refused(cls, check: str) -> Found:
        """By a signature, a digest, or the coordinator's own comparison."""
        return cls(None, (check,))

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASS


def of_metrics(found: Metrics, judged: Judged, limits: Thresholds) -> Found:
    """The verdict, and which checks alone would have doubted."""
    alone = {
        "S": Metrics(sampled=found.sampled),
        "ending": Metrics(ending=found.ending),
        "prompt": Metrics(prompt=found.prompt),
        "X": Metrics(exact=found.exact),
        "F": Metrics(chunks=tuple(one._replace(plausible=_calm(one.plausible)) for one in found.chunks)),
        "T": Metrics(chunks=tuple(one._replace(close=one.close._replace(mean=0.0)) for one in found.chunks)),
    }
    by = tuple(name for name, part in alone.items() if judge(part, limits).verdict is not Verdict.PASS)
    return Found(judged.verdict, by, found)


def _calm(plausible: Plausibility) -> Plausibility:
    return plausible._replace(far=0, unlisted=0, raised=0.0)


class Counts(NamedTuple):
    """Of one row."""

    runs: int
    passed: int
    suspect: int
    failed: int
    """Where a stake is slashed."""
    refused: int
    by: tuple[tuple[str, int], ...] = ()
    """How often each check spoke."""
    figures: str = ""
    """What was measured besides, in words."""

    @property
    def caught(self) -> int:
        """Not passed: a suspect is looked at again, with more chunks."""
        return self.runs - self.passed


def count(found: Sequence[Found], figures: str = "") -> Counts:
    verdicts = Counter(one.verdict for one in found)
    by = Counter(check for one in found for check in one.by)
    return Counts(
        runs=len(found),
        passed=verdicts[Verdict.PASS],
        suspect=verdicts[Verdict.SUSPECT],
        failed=verdicts[Verdict.FAIL],
        refused=verdicts[None],
        by=tuple(by.most_common()),
        figures=figures,
    )


def interval(hits: int, runs: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: it stays sensible at 0 and at all."""
    if runs == 0:
        return 0.0, 1.0
    share, spread = hits / runs, _Z * _Z / runs
    middle = share + spread / 2
    width = _Z * sqrt(share * (1 - share) / runs + spread / (4 * runs))
    return max(0.0, (middle - width) / (1 + spread)), min(1.0, (middle + width) / (1 + spread))
