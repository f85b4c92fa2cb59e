"""What became of one attack, and of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
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


class Figures(NamedTuple):
    """What the checks measured."""

    chunks: int = 0
    draws: int = 0
    closeness: float = 0.0
    """The worst of F."""
    far: int = 0
    """The worst of T."""
    raised: float = 0.0
    compared: int = 0
    """Tokens of which X demands equality."""
    equal: int = 0
    unknown: int = 0
    """Tokens that could not be repeated."""

    def joined(self, other: Figures) -> Figures:
        """Of both."""
        worst = {"closeness", "far", "raised"}
        fields = zip(self._fields, self, other, strict=True)
        return Figures(*(max(one, two) if name in worst else one + two for name, one, two in fields))

    def words(self) -> str:
        """For people."""
        told = [f"{self.chunks} chunks, F ≤ {self.closeness:.2f}, T ≤ {self.far}, raised ≤ {self.raised:.1f}"]
        told = told if self.chunks else []
        told += [f"{self.draws} draws"] if self.draws else []
        told += [f"{self.equal} of {self.compared} tokens equal"] if self.compared else []
        return ", ".join([*told, *([f"{self.unknown} tokens unknown"] if self.unknown else [])])


def figures_of(metrics: Metrics) -> Figures:
    """Of one task."""
    return Figures(
        chunks=len(metrics.chunks),
        draws=metrics.sampled.checked if metrics.sampled else 0,
        closeness=max((one.close.mean for one in metrics.chunks), default=0.0),
        far=max((one.plausible.far for one in metrics.chunks), default=0),
        raised=max((one.plausible.raised for one in metrics.chunks), default=0.0),
        compared=metrics.exact.compared if metrics.exact else 0,
        equal=metrics.exact.equal if metrics.exact else 0,
        unknown=metrics.unknown,
    )


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
    figures: Figures = Figures()

    @property
    def caught(self) -> int:
        """Not passed: a suspect is looked at again, with more chunks."""
        return self.runs - self.passed


NOTHING = Counts(0, 0, 0, 0, 0)


def count(found: Sequence[Found]) -> Counts:
    verdicts = Counter(one.verdict for one in found)
    by = Counter(check for one in found for check in one.by)
    return Counts(
        runs=len(found),
        passed=verdicts[Verdict.PASS],
        suspect=verdicts[Verdict.SUSPECT],
        failed=verdicts[Verdict.FAIL],
        refused=verdicts[None],
        by=tuple(by.most_common()),
        figures=reduce(Figures.joined, (figures_of(one.metrics) for one in found if one.metrics), Figures()),
    )


def together(one: Counts, other: Counts) -> Counts:
    """Of two parts of a row."""
    by = Counter(dict(one.by)) + Counter(dict(other.by))
    sums = (a + b for a, b in zip(one[:5], other[:5], strict=True))
    return Counts(*sums, tuple(by.most_common()), one.figures.joined(other.figures))


def interval(hits: int, runs: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: it stays sensible at 0 and at all."""
    if runs == 0:
        return 0.0, 1.0
    share, spread = hits / runs, _Z * _Z / runs
    middle = share + spread / 2
    width = _Z * sqrt(share * (1 - share) / runs + spread / (4 * runs))
    return max(0.0, (middle - width) / (1 + spread)), min(1.0, (middle + width) / (1 + spread))
