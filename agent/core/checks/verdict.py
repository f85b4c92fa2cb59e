"""From metrics to a verdict, by thresholds that a calibration set."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from math import exp, sqrt
from typing import NamedTuple

from agent.core.checks.ending import Ending
from agent.core.checks.forward import Closeness, Exactness, Plausibility
from agent.core.checks.imprints import Imprinted
from agent.core.checks.rows import Rows
from agent.core.checks.sampling import Sampled
from agent.core.model import Value
from agent.core.proof.toploc import TOP


class Verdict(StrEnum):
    """What a verifier says of one task."""

    PASS = "pass"  # noqa: S105  (no password)
    SUSPECT = "suspect"
    """Once is no proof: look at more chunks."""
    FAIL = "fail"


CHUNK_TOKENS = 32
_FEWEST = CHUNK_TOKENS // 2
"""Tokens that are judged together at least: a few have much noise."""
_MOST_ALLOWANCE = 3.0


class Thresholds(Value):
    """Limits of one chunk of 32 tokens. Honest engines of another class stay below, whatever the prompt."""

    version: str = "uncalibrated"
    closeness: float = 0.30
    """F: mean difference of log-probabilities. Measured on 728 honest chunks: one over 0.25, none over 0.30."""
    far: int = 2
    """T: tokens that noise does not explain. Measured: one at most in 72 honest chunks, 2 to 13 where a cheaper
    computation chose the tokens.
    """
    unlisted: int = 2
    """T: tokens that are not among the recomputed candidates."""
    raised: float = 3.0
    """T: how much likelier any one token may be claimed to be than it is; e³ is twenty times. Measured: 0.3 at most in
    15 honest chunks, up to 14 where an end of the text was made up.
    """
    repeated: int = 2
    """Chunks over a limit that make a failure of a suspicion."""
    parallel: float = 0.995
    """Least cosine of a row with one's own."""
    exponents: int = 38
    """TOPLOC, as published: of 128, how many may differ. Measured: 30 at most where honest kernels are others."""
    mantissas: float = 10.0
    """TOPLOC, as published: mean steps between mantissas. Measured: 7.9 at most, 11.1 of single tokens."""
    candidates: int = 20
    """Fewest a token that must be committed to: with few, neither S nor F shows anything. Engines give 20 at least."""


class Replayed(NamedTuple):
    """F and T of one chunk, or of short ones together."""

    leaf: int
    """The first."""
    close: Closeness
    plausible: Plausibility
    recomputed: str = ""
    """`figures_sha256` of one's own figures."""

    def joined(self, other: Replayed) -> Replayed:
        """This and the next, as one."""
        return Replayed(self.leaf, self.close.joined(other.close), self.plausible.joined(other.plausible))


class Metrics(NamedTuple):
    """All that was found out about one task; None where a check was not made."""

    sampled: Sampled | None = None
    ending: Ending | None = None
    prompt: bool | None = None
    """Whether the committed prompt is what the template and tokenizer make of the task."""
    chunks: tuple[Replayed, ...] = ()
    exact: Exactness | None = None
    unknown: int = 0
    """Tokens that could not be repeated: one of them was withheld, and what it was is not certain."""
    candidates: int | None = None
    """That the node says it asked for, a token."""
    rows: Rows | None = None
    """Of an embedding, beside one's own."""
    same_class: bool = False
    """Whether rows must be equal."""
    imprints: Imprinted | None = None
    vocabulary: bool = True
    """False: a token is claimed that the model does not have, so that nothing could be repeated."""
    overcounted: int = 0
    """Prompt tokens that are claimed, and paid, beyond one's own count and some more."""


class Judged(NamedTuple):
    """A verdict and its reasons, in plain words."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def judge(found: Metrics, limits: Thresholds) -> Judged:
    """S, X, the prompt and the end are certain: one fault fails. F and T are statistics: one chunk is a suspicion."""
    faults = tuple(_certain(found))
    if faults:
        return Judged(Verdict.FAIL, faults)
    if found.candidates is not None and found.candidates < limits.candidates:
        told = f"only {found.candidates} candidates a token are committed to, {limits.candidates} are wanted"
        return Judged(Verdict.SUSPECT, (told,))
    doubts = tuple(_doubts(found, limits))
    if not doubts:
        return Judged(Verdict.PASS)
    return Judged(Verdict.FAIL if len(doubts) >= limits.repeated else Verdict.SUSPECT, doubts)


def is_certain(found: Metrics) -> bool:
    """Whether it fails without what is statistics."""
    return any(_certain(found))


def _doubts(found: Metrics, limits: Thresholds) -> Iterable[str]:
    """One for each chunk or row over a limit, and one for all that is hardly ever so of the end: a model that says one
    byte again and again does all of that at once.
    """
    if found.ending and found.ending.doubts:
        yield "; ".join(found.ending.doubts)
    for chunk in long_enough(found.chunks):
        if reason := _over(chunk, limits):
            yield reason
    if found.imprints:
        yield from _far(found.imprints, limits)
    for at, cosine in enumerate(found.rows.cosines if found.rows else ()):
        if cosine < limits.parallel:
            yield f"row {at} is only {cosine:.4f} parallel, {limits.parallel} at least is wanted"


def _far(found: Imprinted, limits: Thresholds) -> Iterable[str]:
    for at, (far, tokens) in enumerate(zip(found.distances, found.tokens, strict=True)):
        exponents, mantissas = (limit * allowance(tokens) for limit in (limits.exponents, limits.mantissas))
        if far.exponents > exponents or far.mean > mantissas:
            figures = f"{far.exponents} of {TOP} exponents differ, mantissas are {far.mean:.1f} steps off on average"
            yield f"imprint {at}: {figures}; {exponents:.0f} and {mantissas:.0f} are allowed"


def long_enough(chunks: Iterable[Replayed]) -> list[Replayed]:
    """Short chunks are judged together with the next; the last, if it is short, with the one before."""
    joined: list[Replayed] = []
    for chunk in chunks:
        if joined and joined[-1].plausible.compared < _FEWEST:
            joined[-1] = joined[-1].joined(chunk)
        else:
            joined.append(chunk)
    if len(joined) > 1 and joined[-1].plausible.compared < _FEWEST:
        *joined, before, last = joined
        joined.append(before.joined(last))
    return joined


def allowance(tokens: int) -> float:
    """The mean of few tokens varies more than that of many: by the square root of their number."""
    return min(max(1.0, sqrt(CHUNK_TOKENS / max(tokens, 1))), _MOST_ALLOWANCE)


def closeness_limit(chunk: Replayed, limits: Thresholds) -> float:
    """F's limit for a chunk of this length."""
    return limits.closeness * allowance(chunk.plausible.compared)


def _certain(found: Metrics) -> Iterable[str]:
    if found.prompt is False:
        yield "the committed prompt is not what the model's template makes of the task"
    if found.overcounted:
        yield f"{found.overcounted} prompt tokens more are claimed than the model can make of the task"
    if not found.vocabulary:
        yield "a token is claimed that this model does not have"
    if found.sampled and found.sampled.malformed:
        yield f"{len(found.sampled.malformed)} tokens lack the candidates that were promised, or are no probabilities"
    if found.sampled and found.sampled.mismatches:
        first = found.sampled.mismatches[0]
        yield f"{len(found.sampled.mismatches)} tokens are not what the seed draws, the first is token {first}"
    if found.ending:
        yield from found.ending.faults
    if found.imprints:
        yield from found.imprints.faults
    if found.rows and found.same_class and found.rows.equal < found.rows.compared:
        yield f"{found.rows.compared - found.rows.equal} of {found.rows.compared} rows differ from an exact repetition"
    if found.exact and found.exact.equal < found.exact.compared:
        differing = found.exact.compared - found.exact.equal
        yield f"{differing} of {found.exact.compared} tokens differ from an exact repetition"


def _over(chunk: Replayed, limits: Thresholds) -> str:
    close, plausible = chunk.close, chunk.plausible
    chunks = max(1.0, plausible.compared / CHUNK_TOKENS)
    if close.mean > (most := closeness_limit(chunk, limits)):
        return f"chunk {chunk.leaf}: log-probabilities are {close.mean:.2f} off on average, {most:.2f} is allowed"
    if plausible.far > limits.far * chunks:
        return f"chunk {chunk.leaf}: {plausible.far} tokens are not what this model would have said"
    if plausible.raised > limits.raised:
        times = exp(min(plausible.raised, 20.0))
        return f"chunk {chunk.leaf}: a token is claimed to be {times:.0f} times as likely as it is"
    if plausible.unlisted > limits.unlisted * chunks:
        return f"chunk {chunk.leaf}: {plausible.unlisted} tokens are beyond this model's candidates"
    return ""
