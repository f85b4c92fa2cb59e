"""Thresholds from honest runs: how far apart an honest node and a verifier of the same model and engine are at most.

A calibration is a signed file: what was measured, on what, and the limits that follow. Its reader derives the limits
again, so that nobody can sign looser ones. Pure; where the files lie is `edges/models/thresholds.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from math import ceil
from typing import Annotated, NamedTuple

import msgspec

from agent.core.checks.verdict import CHUNK_TOKENS, Replayed, Thresholds, allowance, long_enough
from agent.core.errors import ProofError
from agent.core.manifest import is_digest
from agent.core.model import Count, Signed, Value
from agent.core.proof.signed import Sign, Verify, open_signed, seal
from agent.core.wire import Role

VERSION = 1
FEWEST_CHUNKS, FEWEST_PROMPTS = 500, 50
"""With fewer the largest one seen says little about the largest there is."""
MARGIN = 1.3
"""What was measured at most is taken so many times."""
CLOSENESS = (0.10, 0.60)
"""Bounds of F's limit. Both engines of a calibration run on one machine, while kernels of other machines move
log-probabilities by 0.02 to 0.04: below the first, honest nodes would be suspected. Above the second (twice the limit
that tells Q4_0 from Q4_K_M) nothing would be.
"""
OUT_OF_PLACE = (1, 4)
"""Bounds of T's limits, in tokens of 32. A cheaper computation puts 2 to 13 out of place."""
ASTRAY = (0.0005, 0.01)
"""Bounds of how far a row's cosine may be from 1."""
MAX_FILE_BYTES = 1 << 20

_Real = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class CalibrationFault(StrEnum):
    """Why a file is not relied upon: `ProofError.check`."""

    FORMAT = "calibration_format"
    """Not a calibration at all, or damaged."""
    VERSION = "calibration_version"
    """Of a format that this agent does not know."""
    DRAFT = "calibration_draft"
    """Not signed, on purpose."""
    KEY = "calibration_key"
    """Signed by somebody who is not trusted here."""
    SIGNATURE = "calibration_signature"
    FEW = "calibration_few"
    """Too few chunks or prompts."""
    NOISY = "calibration_noisy"
    """Honest runs are so far apart that no limit would tell a cheat from noise."""
    LIMITS = "calibration_limits"
    """Other limits than those that follow from its figures."""


class Work(StrEnum):
    """What was compared."""

    GENERATION = "generation"
    EMBEDDING = "embedding"


class Device(StrEnum):
    """What computed."""

    CPU = "cpu"
    GPU = "gpu"


class Spread(Value, forbid_unknown_fields=True):
    """One metric over all chunks or rows."""

    mean: _Real = 0.0
    p99: _Real = 0.0
    """99 of 100 are not above it."""
    most: _Real = 0.0


class Noise(Value, forbid_unknown_fields=True):
    """How far honest runs are apart: of chunks of 32 tokens, shorter ones scaled as the verdict scales its limits."""

    closeness: Spread = Spread()
    """F: mean difference of log-probabilities."""
    far: Spread = Spread()
    """T: tokens out of place."""
    unlisted: Spread = Spread()
    """T: tokens beyond the verifier's candidates."""
    astray: Spread = Spread()
    """Embeddings: 1 − cosine."""


class Limits(Value, forbid_unknown_fields=True):
    """What follows; see `Thresholds`."""

    closeness: _Real
    far: Count
    unlisted: Count
    parallel: _Real


class Calibration(Value, forbid_unknown_fields=True):
    """The signed payload, as JSON."""

    version: Count
    model: str
    """Name; informative, since the digest covers it."""
    model_digest: str
    engine: str
    """Profile and version of the engine, as headers tell it; no digest of binaries: class F compares across builds."""
    args: tuple[str, ...]
    """More arguments of the engine: verifiers must have the same."""
    device: Device
    work: Work
    slots: Count
    """Requests at a time on the node's side; the verifier had one."""
    context_tokens: Count
    classes: tuple[str, ...]
    """Determinism classes that did the work; informative."""
    prompts: Count
    chunks: Count
    """Chunks that were repeated, or rows."""
    tokens: Count
    drawn: Count
    """Tokens whose draw was replayed from the seed (S): all of them were right."""
    noise: Noise
    limits: Limits
    made_at: Count
    """Unix seconds."""
    tool: str


class Trusted(NamedTuple):
    """A calibration that was read, and who vouches for it."""

    calibration: Calibration
    key: str
    thresholds: Thresholds


class Sample(NamedTuple):
    """One chunk, or short ones together, as of 32 tokens."""

    tokens: int
    closeness: float
    far: float
    unlisted: float


# --------------------------------------------------------------------------- from samples to limits


def samples_of(chunks: Iterable[Replayed]) -> list[Sample]:
    """What one task's chunks contribute: joined and scaled as `judge` does."""
    return [_sample(chunk) for chunk in long_enough(chunks)]


def _sample(chunk: Replayed) -> Sample:
    tokens = chunk.plausible.compared
    chunks = max(1.0, tokens / CHUNK_TOKENS)
    return Sample(
        tokens=tokens,
        closeness=chunk.close.mean / allowance(tokens),
        far=chunk.plausible.far / chunks,
        unlisted=chunk.plausible.unlisted / chunks,
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean, 99th percentile (nearest rank) and maximum; six decimals, rounded up, so that the maximum stays one."""
    if not values:
        return Spread()
    ordered = sorted(values)
    rank = ceil(0.99 * len(ordered)) - 1
    return Spread(mean=_up(sum(values) / len(values)), p99=_up(ordered[rank]), most=_up(ordered[-1]))


def noise_of(samples: Sequence[Sample], cosines: Sequence[float] = ()) -> Noise:
    """Of all chunks, or of all rows."""
    return Noise(
        closeness=spread([sample.closeness for sample in samples]),
        far=spread([sample.far for sample in samples]),
        unlisted=spread([sample.unlisted for sample in samples]),
        astray=spread([max(0.0, 1.0 - cosine) for cosine in cosines]),
    )


def limits_of(noise: Noise) -> Limits:
    """1.3 times the largest, within bounds. Raises ProofError(NOISY) when an honest run is beyond a bound."""
    beyond = [
        f"{name} {metric.most:g} (at most {most:g})"
        for name, metric, most in (
            ("log-probabilities apart by", noise.closeness, CLOSENESS[1]),
            ("tokens out of place:", noise.far, OUT_OF_PLACE[1]),
            ("tokens beyond the candidates:", noise.unlisted, OUT_OF_PLACE[1]),
            ("rows astray by", noise.astray, ASTRAY[1]),
        )
        if metric.most > most
    ]
    if beyond:
        raise ProofError(CalibrationFault.NOISY, f"no limit would tell a cheat from noise: {'; '.join(beyond)}")
    return Limits(
        closeness=_up(_within(CLOSENESS, noise.closeness.most * MARGIN), 4),
        far=ceil(_within(OUT_OF_PLACE, noise.far.most * MARGIN)),
        unlisted=ceil(_within(OUT_OF_PLACE, noise.unlisted.most * MARGIN)),
        parallel=round(1.0 - _within(ASTRAY, noise.astray.most * MARGIN), 6),
    )


def _within(bounds: tuple[float, float], value: float) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _up(value: float, digits: int = 6) -> float:
    scale = 10.0**digits
    return ceil(round(value * scale, 3)) / scale


# --------------------------------------------------------------------------- the file


def signed_file(calibration: Calibration, key: str, sign: Sign) -> bytes:
    """The file. Raises ProofError(FEW, LIMITS) for one that nobody may rely upon."""
    _sound(calibration)
    return _file(seal(Role.CALIBRATION, msgspec.json.encode(calibration), key, sign))


class _Draft(msgspec.Struct, forbid_unknown_fields=True):
    draft: str
    calibration: Calibration


def draft_file(calibration: Calibration) -> bytes:
    """The same without a signature: to look at."""
    return _file(_Draft("not signed: nobody relies on this", calibration))


def _file(content: Signed | _Draft) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


class _Versioned(msgspec.Struct):
    version: int


def read_calibration(raw: bytes, trusted: Collection[str], verify: Verify) -> Trusted:
    """Read a file, signed by one of the `trusted` keys (hex). Raises ProofError with a CalibrationFault."""
    signed = _envelope(raw)
    if signed.key not in trusted:
        raise ProofError(CalibrationFault.KEY, f"it is by {signed.key[:16]}…, whom nobody here trusts")
    try:
        payload = open_signed(Role.CALIBRATION, signed, signed.key, verify)
    except ProofError as error:
        raise ProofError(CalibrationFault.SIGNATURE, error.message) from error
    calibration = _payload(payload)
    _sound(calibration)
    version = f"calibration {hashlib.sha256(payload).hexdigest()[:16]}"
    return Trusted(calibration, signed.key, thresholds_of(calibration, version))


def _envelope(raw: bytes) -> Signed:
    try:
        return msgspec.json.decode(raw, type=Signed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            msgspec.json.decode(raw, type=_Draft)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ProofError(CalibrationFault.FORMAT, f"it is no calibration: {error}") from error
        raise ProofError(CalibrationFault.DRAFT, "it is a draft, which nobody signed") from error


def _payload(payload: bytes) -> Calibration:
    try:
        version = msgspec.json.decode(payload, type=_Versioned).version
        if version != VERSION:
            raise ProofError(CalibrationFault.VERSION, f"its format is version {version}; this agent reads {VERSION}")
        return msgspec.json.decode(payload, type=Calibration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProofError(CalibrationFault.FORMAT, f"what was signed is no calibration: {error}") from error


def _sound(calibration: Calibration) -> None:
    """Whether anybody may rely on it. Raises ProofError."""
    if not is_digest(calibration.model_digest):
        raise ProofError(CalibrationFault.FORMAT, f"{calibration.model_digest!r} is no model digest")
    if lacks := lacking(calibration.chunks, calibration.prompts):
        raise ProofError(CalibrationFault.FEW, lacks)
    if calibration.limits != limits_of(calibration.noise):
        raise ProofError(CalibrationFault.LIMITS, "its limits do not follow from its figures")


def lacking(chunks: int, prompts: int) -> str:
    """What there are too few of, in words; empty when there are enough."""
    few = [
        f"{have} {what}, {least} at least are wanted"
        for have, what, least in ((chunks, "chunks", FEWEST_CHUNKS), (prompts, "prompts", FEWEST_PROMPTS))
        if have < least
    ]
    return "; ".join(few)


def thresholds_of(calibration: Calibration, version: str) -> Thresholds:
    """What a verifier judges by."""
    limits = calibration.limits
    return Thresholds(
        version=version,
        closeness=limits.closeness,
        far=limits.far,
        unlisted=limits.unlisted,
        parallel=limits.parallel,
    )


def widest(found: Sequence[Thresholds]) -> Thresholds | None:
    """Of several calibrations of the same engine (on other devices) each is honest: what one of them allows."""
    if not found:
        return None
    return Thresholds(
        version=" + ".join(sorted({one.version for one in found})),
        closeness=max(one.closeness for one in found),
        far=max(one.far for one in found),
        unlisted=max(one.unlisted for one in found),
        parallel=min(one.parallel for one in found),
    )
