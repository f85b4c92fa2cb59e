"""Limits that follow from honest runs, and a file that says so."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.checks import calibration as cal
from agent.core.checks.calibration import (
    CalibrationFault,
    Limits,
    Noise,
    Sample,
    Spread,
    draft_file,
    lacking,
    limits_of,
    noise_of,
    read_calibration,
    samples_of,
    signed_file,
    spread,
    widest,
)
from agent.core.checks.forward import Closeness, Plausibility
from agent.core.checks.verdict import Metrics, Replayed, Thresholds, Verdict, judge
from agent.core.errors import ProofError
from agent.core.wire import Role
from agent.edges.signing import KeyPair, verify
from tests.calibrations import KEYS, calibration, resigned

OURS = {KEYS.public_key}
REAL = st.floats(0, 0.6)


def read(raw: bytes) -> cal.Trusted:
    return read_calibration(raw, OURS, verify)


def fault_of(raw: bytes) -> str:
    with pytest.raises(ProofError) as refused:
        read(raw)
    return refused.value.check


def replayed(mean: float, *, far: int = 0, unlisted: int = 0, tokens: int = 32) -> Replayed:
    plausible = Plausibility(tokens, 0.0, far, unlisted, 0.0)
    return Replayed(0, Closeness(tokens * 10, mean, mean, 1.0), plausible)


def test_limits_are_1_3_times_the_largest_that_honest_runs_showed():
    noise = Noise(closeness=Spread(most=0.2), far=Spread(most=1.0), astray=Spread(most=0.002))
    assert limits_of(noise) == Limits(closeness=0.26, far=2, unlisted=1, parallel=0.9974)


def test_limits_stay_above_the_noise_between_machines_and_below_what_means_nothing():
    quiet = limits_of(Noise())
    assert (quiet.closeness, quiet.far, quiet.unlisted, quiet.parallel) == (0.10, 1, 1, 0.9995)
    loud = limits_of(Noise(closeness=Spread(most=0.55), far=Spread(most=4.0)))
    assert (loud.closeness, loud.far) == (0.60, 4)


@pytest.mark.parametrize(
    "noise",
    [Noise(closeness=Spread(most=0.61)), Noise(far=Spread(most=5.0)), Noise(astray=Spread(most=0.02))],
)
def test_an_engine_whose_honest_runs_are_too_far_apart_gets_no_limits(noise: Noise):
    with pytest.raises(ProofError) as refused:
        limits_of(noise)
    assert refused.value.check == CalibrationFault.NOISY


@given(st.lists(st.tuples(REAL, st.integers(0, 4), st.integers(0, 4), st.integers(1, 32)), min_size=1, max_size=20))
def test_no_run_that_was_measured_is_suspected_by_the_limits_that_follow(runs):
    chunks = [replayed(mean, far=far, unlisted=unlisted, tokens=tokens) for mean, far, unlisted, tokens in runs]
    samples = [sample for chunk in chunks for sample in samples_of([chunk])]
    made = calibration(noise=noise_of(samples))
    limits = read(signed_file(made, KEYS.public_key, KEYS.sign)).thresholds
    for chunk in chunks:
        assert judge(Metrics(chunks=(chunk,)), limits).verdict is Verdict.PASS


def test_short_chunks_count_as_the_verdict_counts_them():
    (alone,) = samples_of([replayed(0.4, tokens=8)])
    assert alone == Sample(tokens=8, closeness=0.2, far=0.0, unlisted=0.0)
    (joined,) = samples_of([replayed(0.1, far=2), replayed(0.1, far=1, tokens=8)])
    assert (joined.tokens, joined.far) == (40, 2.4)


def test_a_spread_tells_mean_99_of_100_and_the_largest():
    assert spread([0.01 * number for number in range(1, 101)]) == Spread(mean=0.505, p99=0.99, most=1.0)
    assert spread([]) == Spread()
    assert spread([0.12345678]).most == 0.123457  # up: what was measured is never above what is told


def test_a_signed_file_reads_back_as_thresholds_with_a_version_of_their_own():
    made = calibration()
    trusted = read(signed_file(made, KEYS.public_key, KEYS.sign))
    assert (trusted.calibration, trusted.key) == (made, KEYS.public_key)
    assert (trusted.thresholds.closeness, trusted.thresholds.far) == (0.26, 2)
    assert trusted.thresholds.version.startswith("calibration ")
    other = read(signed_file(calibration(slots=8), KEYS.public_key, KEYS.sign))
    assert other.thresholds.version != trusted.thresholds.version


def test_every_fault_of_a_file_has_its_name():
    good = signed_file(calibration(), KEYS.public_key, KEYS.sign)
    stranger = KeyPair.generate()
    envelope = json.loads(good)
    later = envelope | {"payload": envelope["payload"].replace('"chunks":500', '"chunks":900')}
    loose = Limits(closeness=0.5, far=4, unlisted=4, parallel=0.99)
    faults = {
        b"": CalibrationFault.FORMAT,
        b"\xff": CalibrationFault.FORMAT,
        b"[1]": CalibrationFault.FORMAT,
        good[: len(good) // 2]: CalibrationFault.FORMAT,
        json.dumps(later).encode(): CalibrationFault.SIGNATURE,
        signed_file(calibration(), stranger.public_key, stranger.sign): CalibrationFault.KEY,
        draft_file(calibration()): CalibrationFault.DRAFT,
        resigned(calibration(version=2)): CalibrationFault.VERSION,
        resigned(calibration(chunks=499)): CalibrationFault.FEW,
        resigned(calibration(prompts=49)): CalibrationFault.FEW,
        resigned(calibration(limits=loose)): CalibrationFault.LIMITS,
        resigned(calibration("sha256:short")): CalibrationFault.FORMAT,
    }
    assert {raw: fault_of(raw) for raw in faults} == faults


def test_a_signature_for_another_purpose_makes_no_calibration():
    from agent.core.proof.signed import seal

    payload = msgspec.json.encode(calibration())
    raw = msgspec.json.encode(seal(Role.BUNDLE, payload, KEYS.public_key, KEYS.sign))
    assert fault_of(raw) == CalibrationFault.SIGNATURE


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw: bytes):
    assert fault_of(raw) == CalibrationFault.FORMAT


def test_nobody_signs_what_nobody_may_rely_upon():
    with pytest.raises(ProofError) as refused:
        signed_file(calibration(chunks=10), KEYS.public_key, KEYS.sign)
    assert refused.value.check == CalibrationFault.FEW
    assert lacking(10, 50) == "10 chunks, 500 at least are wanted"
    assert lacking(500, 50) == ""


def test_of_several_calibrations_each_honest_run_passes():
    one = Thresholds(version="a", closeness=0.2, far=3, unlisted=1, parallel=0.99)
    two = Thresholds(version="b", closeness=0.3, far=1, unlisted=2, parallel=0.999)
    assert widest([two, one]) == Thresholds(version="a + b", closeness=0.3, far=3, unlisted=2, parallel=0.99)
    assert widest([]) is None
