"""F and X: are the claimed log-probabilities those of the model? T: are the tokens plausible under it?

All three compare a chunk's claims with what somebody recomputed for the same tokens after the same prefix.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from itertools import repeat
from math import exp
from typing import NamedTuple

from agent.core.checks.claims import Position, Sampler
from agent.core.checks.sampling import distance

TOP = 10
"""Candidates that F compares: those that matter, and that engines agree on best."""
FAR_OFF = 0.05
"""A draw further from its interval than noise moves it (log-probabilities of honest engines differ by 0.02–0.04)."""
FAR_BEHIND = 0.5
"""A greedy token further behind the likeliest one than concurrent requests move it (0.45 at most, measured)."""


class Closeness(NamedTuple):
    """F: natural logarithms, over the likeliest candidates."""

    compared: int
    mean: float
    """Mean difference: the fingerprint that tells one model from another."""
    worst: float
    overlap: float
    """Share of the claimed likeliest candidates that are among the recomputed likeliest."""

    def joined(self, other: Closeness) -> Closeness:
        """Over both."""
        return Closeness(
            compared=self.compared + other.compared,
            mean=_mean((self.compared, self.mean), (other.compared, other.mean)),
            worst=max(self.worst, other.worst),
            overlap=_mean((self.compared, self.overlap), (other.compared, other.overlap)),
        )


class Plausibility(NamedTuple):
    """T: the claimed tokens under recomputed probabilities."""

    compared: int
    mean: float
    """Greedy: mean margin behind the likeliest token, as a difference of logarithms. Sampled: mean distance of the
    seed's number from the interval that draws the token.
    """
    far: int
    """Tokens that noise does not explain."""
    unlisted: int
    """Tokens that were claimed as candidates, and are not among the recomputed ones at all."""
    mean_rank: float
    """0 is the likeliest. Unlisted tokens count as the last of the list."""
    raised: float = 0.0
    """How much likelier, at most, one of the tokens was claimed to be than it is: a difference of logarithms."""

    def joined(self, other: Plausibility) -> Plausibility:
        """Over both."""
        return Plausibility(
            compared=self.compared + other.compared,
            mean=_mean((self.compared, self.mean), (other.compared, other.mean)),
            far=self.far + other.far,
            unlisted=self.unlisted + other.unlisted,
            mean_rank=_mean((self.compared, self.mean_rank), (other.compared, other.mean_rank)),
            raised=max(self.raised, other.raised),
        )


class Exactness(NamedTuple):
    """X."""

    compared: int
    equal: int
    """Positions whose candidates and log-probabilities are the same bits."""


def _mean(*parts: tuple[int, float]) -> float:
    return sum(count * value for count, value in parts) / max(sum(count for count, _ in parts), 1)


def check_closeness(claimed: Sequence[Position], recomputed: Sequence[Position]) -> Closeness:
    """F over one chunk. What one of the lists lacks counts as the gap to its end, which it is at least: who leaves out
    what the model thinks likely is no nearer to it by that.
    """
    differences: list[float] = []
    shared = listed = 0
    for (claim, own), _ in _pairs(claimed, recomputed):
        known, floor = dict(zip(own.ids, own.logprobs, strict=True)), own.logprobs[-1]
        likeliest = set(own.ids[:TOP])
        for number, logprob in zip(claim.ids[:TOP], claim.logprobs[:TOP], strict=True):
            gap = logprob - known[number] if number in known else max(0.0, logprob - floor)
            differences.append(abs(gap))
            shared += number in likeliest
        listed += len(claim.ids[:TOP])
        differences += [gap for one in _left_out(claim, own, TOP) if (gap := one - claim.logprobs[-1]) > 0]
    if not differences:
        return Closeness(0, 0.0, 0.0, 0.0)
    return Closeness(len(differences), sum(differences) / len(differences), max(differences), shared / listed)


def check_plausibility(
    claimed: Sequence[Position], recomputed: Sequence[Position], sampler: Sampler | None, numbers: Sequence[float]
) -> Plausibility:
    """T over one chunk. `numbers`: the seed's random numbers for just these positions (`draw.uniforms`).

    Without a `sampler` nobody knows how the tokens were drawn: then only their ranks are told.
    """
    gaps: list[float] = []
    ranks: list[int | None] = []
    unlisted, raised = 0, 0.0
    for (claim, own), number in _pairs(claimed, recomputed, numbers):
        ranks.append(Position(claim.token, own.ids).rank())
        unlisted += ranks[-1] is None and claim.rank() is not None
        raised = max(raised, _raised(claim, own, ranks[-1]))
        gaps += [] if sampler is None else [_gap(claim, own, sampler, number)]
    if not ranks:
        return Plausibility(0, 0.0, 0, 0, 0.0)
    limit = FAR_BEHIND if sampler and sampler.greedy else FAR_OFF
    last = max(len(own.ids) for own in recomputed)
    return Plausibility(
        compared=len(ranks),
        mean=sum(gaps) / max(len(gaps), 1),
        far=sum(gap > limit for gap in gaps),
        unlisted=unlisted,
        mean_rank=sum(last if rank is None else rank for rank in ranks) / len(ranks),
        raised=raised,
    )


def check_exactness(claimed: Sequence[Position], recomputed: Sequence[Position]) -> Exactness:
    """X: the same candidates with the same log-probabilities, bit by bit as float32."""
    pairs = [pair for pair, _ in _pairs(claimed, recomputed)]
    return Exactness(len(pairs), sum(_bits(claim) == _bits(own) for claim, own in pairs))


def _pairs(
    claimed: Sequence[Position], recomputed: Sequence[Position], numbers: Iterable[float] = repeat(0.0)
) -> Iterable[tuple[tuple[Position, Position], float]]:
    """Positions with candidates on both sides. Raises ValueError when the chunks differ in length."""
    pairs = zip(zip(claimed, recomputed, strict=True), numbers, strict=False)
    return (pair for pair in pairs if pair[0][0].ids and pair[0][1].ids)


def _raised(claim: Position, own: Position, rank: int | None) -> float:
    """How much likelier the token is claimed to be; one that is not listed is at most as likely as the last."""
    claimed = claim.rank()
    return 0.0 if claimed is None else claim.logprobs[claimed] - own.logprobs[-1 if rank is None else rank]


def _left_out(claim: Position, own: Position, most: int | None) -> list[float]:
    """Log-probabilities of one's own likeliest that the claim does not list."""
    listed = frozenset(claim.ids)
    likeliest = zip(own.ids[:most], own.logprobs[:most], strict=True)
    return [logprob for number, logprob in likeliest if number not in listed]


def _gap(claim: Position, own: Position, sampler: Sampler, number: float) -> float:
    if not sampler.greedy:
        return max(_distance(claim, own, sampler, number), _kept_out(claim, own, sampler))
    rank = Position(claim.token, own.ids).rank()
    return own.logprobs[0] - own.logprobs[-1 if rank is None else rank]


def _distance(claim: Position, own: Position, sampler: Sampler, number: float) -> float:
    """By one's own list where the claimed one does not tell the draw, lest it be made so; 0 where neither does."""
    told = distance(claim, _seen_by(own, claim), sampler, number)
    if told is None:
        told = distance(own._replace(token=claim.token), own.logprobs, sampler, number)
    return told or 0.0


def _kept_out(claim: Position, own: Position, sampler: Sampler) -> float:
    """The share of one's own candidates that the claim keeps from being drawn: what it does not list, less what it says
    of its last. Lists of honest engines differ at their ends alone, which comes to next to nothing.
    """

    def weight(logprob: float) -> float:
        return exp((logprob - own.logprobs[0]) / sampler.temperature)

    lacking, last = _left_out(claim, own, sampler.top_k if sampler.top_k > 0 else None), claim.logprobs[-1]
    kept = sum(weight(logprob) - weight(min(logprob, last)) for logprob in lacking)
    return kept / sum(map(weight, own.logprobs)) if kept else 0.0


def _seen_by(own: Position, claim: Position) -> list[float]:
    """The claimed candidates with one's own log-probabilities; those that are not listed are at most the last one."""
    known = dict(zip(own.ids, own.logprobs, strict=True))
    return [known.get(number, own.logprobs[-1]) for number in claim.ids]


def figures_sha256(positions: Sequence[Position]) -> str:
    """Hex digest of what was claimed or recomputed, to the bit: honest verifiers of one class agree on it, and one that
    equals the claims of a node of another class was copied from them.
    """
    return hashlib.sha256(b"".join(_framed(position) for position in positions)).hexdigest()


def _framed(position: Position) -> bytes:
    token = 0 if position.token is None else position.token
    return struct.pack("<BIH", position.token is not None, token, len(position.ids)) + _bits(position)


def _bits(position: Position) -> bytes:
    count = min(len(position.ids), len(position.logprobs))
    return struct.pack(f"<{count}I{count}f", *position.ids[:count], *position.logprobs[:count])
