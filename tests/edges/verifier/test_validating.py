"""A validator with the real engine: from evidence to a sealed verdict."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.checks.claims import chunks
from agent.core.checks.verdict import Thresholds
from agent.core.errors import EngineError
from agent.core.model import Blob, LeaseKey, Reason, VerifyInput
from agent.core.payloads import VerdictBody
from agent.core.proof.opening import open_leaves
from agent.core.proof.sealing import SealedOutput, read_verdict
from agent.core.watchdog import Pulse
from agent.edges.engines.llama import LlamaPool
from agent.edges.signing import verify
from agent.stages.calls import Caller
from agent.stages.validate import UnfitError, Validate
from tests.core.proof.making import COORDINATOR_KEYS
from tests.edges.programs.making import sha256
from tests.edges.verifier import claiming
from tests.edges.verifier.claiming import Done
from tests.fakes.clock import ManualClock
from tests.stages.test_programs import BlobLine
from tests.tiny_model import write_tiny_model

KEY = LeaseKey(task_id="check-1", attempt=1, fence=1)
SALT = "5a" * 32
LIMITS = Thresholds(version="of this test")


class Validator:
    """A pool and what is around it on a node."""

    def __init__(self, pool: LlamaPool, limits: Thresholds | None = LIMITS) -> None:
        self.coordinator_key, self.verify = COORDINATOR_KEYS.public_key, verify
        self.pool = pool
        self.limits = limits

    async def verdict(self, evidence: bytes, leaves: tuple[int, ...] = ()) -> VerdictBody:
        clock = ManualClock()
        caller = Caller(BlobLine(evidence), clock, Pulse({}, started=0.0), random.Random(1))
        stage = Validate(caller, self, {"main": self.pool}, lambda *_: self.limits, clock, lambda: SALT)
        asked = VerifyInput(evidence=Blob(sha256=sha256(evidence), bytes=len(evidence)), leaves=leaves)
        await stage.bring(KEY, "main", asked)
        product = await stage.product(KEY, "main", asked)
        made = product.builder.finish()
        assert msgspec.json.decode(product.output, type=SealedOutput).sealed == made.root
        body = read_verdict(made.leaves)
        assert (body.evidence, body.salt) == (sha256(evidence), SALT)
        return body


def evidence(done: Done, **changes: Any) -> bytes:
    """What the coordinator would make of one task, all leaves opened."""
    bundle = msgspec.structs.replace(done.bundle(), opening=open_leaves(done.transcript.leaves))
    return msgspec.json.encode(msgspec.structs.replace(bundle, **changes))


async def told(pool: LlamaPool, *, tokens: int = 12) -> Done:
    """A task of which the engine showed every token: bytes are many in the tiny model."""
    for seed in range(1, 2000):
        made = await claiming.done(pool, seed=seed, max_tokens=tokens)
        if made.claim.header.proof_kind == "tokens_f32":
            return made
    raise AssertionError


async def test_a_claim_of_the_same_class_is_repeated_to_the_bit(pool: LlamaPool) -> None:
    done = await told(pool)
    body = await Validator(pool, limits=None).verdict(evidence(done))  # an exact check needs no calibration
    assert (body.verdict, body.certain, body.exact) == ("pass", False, True), body
    assert [one.leaf for one in body.recomputed] == [chunk.leaf for chunk in chunks(done.claim.leaves)] == [0]
    assert msgspec.json.decode(body.metrics)["exact"]["equal"] > 0


async def test_a_claim_of_another_class_is_repeated_leaf_by_leaf_within_limits(pool: LlamaPool) -> None:
    done = await told(pool)
    elsewhere = claiming.relabelled(done, determinism="F-0123456789abcdef")
    body = await Validator(pool).verdict(evidence(elsewhere), leaves=(0,))
    assert (body.verdict, body.exact, body.thresholds) == ("pass", False, "of this test"), body
    assert [one.leaf for one in body.recomputed] == [0]


async def test_other_weights_fail_for_certain_in_one_class_and_by_figures_in_another(
    pool: LlamaPool, tmp_path: Path, short_dir: Path
) -> None:
    async with claiming.pool(write_tiny_model(tmp_path / "other.gguf", seed=8), short_dir, name="cheap") as cheap:
        done = await told(cheap)
    exact = await Validator(pool).verdict(evidence(done))
    assert (exact.verdict, exact.certain, exact.exact) == ("fail", True, True), exact
    close = await Validator(pool).verdict(evidence(claiming.relabelled(done, determinism="F-0123456789abcdef")))
    assert (close.verdict, close.certain, close.exact) == ("suspect", False, False), close  # one chunk is no proof


async def test_evidence_that_contradicts_itself_is_a_verdict_and_no_fault_of_the_validator(pool: LlamaPool) -> None:
    done = await claiming.done(pool, max_tokens=4)
    other = await claiming.done(pool, max_tokens=4, seed=11)
    bad = {
        "no bundle": b"{}",
        "another coordinator": evidence(done, coordinator_key="ab" * 32),
        "another output": evidence(done, output="{}"),
        "no opening": evidence(done, opening=None),
        "another opening": evidence(done, opening=open_leaves(other.transcript.leaves)),
    }
    for name, raw in bad.items():
        body = await Validator(pool).verdict(raw)
        assert (body.verdict, body.certain) == ("fail", True), name
        assert body.reasons[0], name


async def test_more_prompt_tokens_than_there_are_fail_even_where_they_would_not_fit(pool: LlamaPool) -> None:
    done = claiming.relabelled(await told(pool), prompt_tokens=9000)
    body = await Validator(pool).verdict(evidence(done))
    assert (body.verdict, body.certain, "prompt" in body.reasons[0]) == ("fail", True, True), body


async def test_a_claim_that_this_pool_cannot_judge_goes_to_another(pool: LlamaPool) -> None:
    done = claiming.relabelled(await claiming.done(pool, max_tokens=4), determinism="F-0123456789abcdef")
    with pytest.raises(UnfitError) as unfit:
        await Validator(pool, limits=None).verdict(evidence(done))
    assert unfit.value.reason is Reason.UNCALIBRATED


async def test_the_validators_class_beside_another_engines_name_is_no_exact_claim(pool: LlamaPool) -> None:
    """Its draws would be nobody's to replay, and no calibration would be asked for."""
    done = claiming.relabelled(await told(pool), engine="vllm 0.11", samplers=(), min_keep=0)
    with pytest.raises(UnfitError) as unfit:
        await Validator(pool, limits=None).verdict(evidence(done))
    assert unfit.value.reason is Reason.UNCALIBRATED


async def test_who_asked_for_no_candidates_keeps_nobody_from_a_verdict(pool: LlamaPool) -> None:
    done = claiming.relabelled(await told(pool), n_probs=0, determinism="F-0123456789abcdef")
    body = await Validator(pool).verdict(evidence(done))
    assert (body.verdict, "only 0 candidates" in body.reasons[0]) == ("suspect", True), body


async def test_other_bytes_than_announced_are_no_evidence(pool: LlamaPool) -> None:
    caller = Caller(BlobLine(b"x" * 10), ManualClock(), Pulse({}, started=0.0), random.Random(1))
    stage = Validate(caller, Validator(pool), {"main": pool}, lambda *_: LIMITS, ManualClock(), lambda: SALT)
    caller.link.blobs["ab" * 32] = b"y" * 10
    with pytest.raises(EngineError) as raised:
        await stage.bring(KEY, "main", VerifyInput(evidence=Blob(sha256="ab" * 32, bytes=10)))
    assert raised.value.reason is Reason.BLOB_UNAVAILABLE
