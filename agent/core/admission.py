"""May we take this offer? Every "no" is a reason of the closed enum and a sentence for people."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent.core import lease, program
from agent.core.fingerprint import Pool
from agent.core.model import EmbeddingInput, ExecInput, Reason, Sampling, TaskSpec, Value, VerifyInput
from agent.core.proof.verdict import MOST_LEAVES
from agent.core.wire import MAX_BLOB_BYTES, OfferBody

SEED_RANDOM = 0xFFFFFFFF
"""llama.cpp reads this seed as "choose one": such a run could never be replayed (proof.md)."""
ENGINE_STOPS_MAX = 16
STOP_MAX = 1024
ID_MAX = 256
_NONCE = re.compile(r"[0-9a-f]{64}")
"""What cannot be written into a proof's header is refused before anything is computed."""
MICRO = 1_000_000


class No(Value):
    """A refusal."""

    reason: Reason
    detail: str


def judge_offer(offer: OfferBody, node_id: str) -> No | None:
    """Faults of the offer itself, whatever this node could do."""
    if offer.node_id != node_id:
        return No(reason=Reason.WRONG_NODE, detail=f"the offer is for node {offer.node_id}, this is {node_id}")
    if not lease.long_enough(offer.lease_ms / 1000):
        return No(reason=Reason.LEASE_TOO_SHORT, detail=f"a lease of {offer.lease_ms} ms leaves no time to work")
    if offer.deadline_ms <= 0:
        return No(reason=Reason.DEADLINE_PASSED, detail=f"the deadline of {offer.deadline_ms} ms is over")
    if offer.attempt < 1 or offer.fence < 1 or not offer.idem_key or not offer.task.task_id:
        return No(reason=Reason.MALFORMED_OFFER, detail="attempt and fence start at 1; task id and key are not empty")
    if not _NONCE.fullmatch(offer.nonce) or max(len(offer.task.task_id), len(offer.idem_key)) > ID_MAX:
        return No(reason=Reason.MALFORMED_OFFER, detail=f"a nonce is 64 hex digits, an id at most {ID_MAX} characters")
    return judge_sampling(offer.task.sampling) or judge_size(offer.task)


def judge_sampling(sampling: Sampling) -> No | None:
    """Sampler settings that an engine would reject, reinterpret, or that could not be replayed."""
    checks = (
        (0 <= sampling.seed < SEED_RANDOM, f"seed {sampling.seed} is not in 0…{SEED_RANDOM - 1}"),
        (0 <= sampling.temperature_micros <= 100 * MICRO, f"temperature {sampling.temperature_micros} micro"),
        (0 <= sampling.top_k <= 1_000_000, f"top_k {sampling.top_k}"),
        (0 < sampling.top_p_micros <= MICRO, f"top_p {sampling.top_p_micros} micro is not in (0, 1]"),
        (0 <= sampling.min_p_micros <= MICRO, f"min_p {sampling.min_p_micros} micro is not in [0, 1]"),
        (
            len(sampling.stop) <= ENGINE_STOPS_MAX and all(0 < len(stop) <= STOP_MAX for stop in sampling.stop),
            f"stop strings: at most {ENGINE_STOPS_MAX}, of 1 to {STOP_MAX} characters",
        ),
    )
    for ok, detail in checks:
        if not ok:
            return No(reason=Reason.UNSUPPORTED_SAMPLING, detail=detail)
    return None


def judge_size(task: TaskSpec) -> No | None:
    """Inputs that hold nothing to do, and programs that no sandbox could run."""
    if isinstance(task.input, ExecInput):
        if wrong := program.faults(task.input):
            return No(reason=Reason.MALFORMED_OFFER, detail="; ".join(wrong)[:1000])
        return None
    if isinstance(task.input, VerifyInput):
        return _judge_evidence(task.input)
    if isinstance(task.input, EmbeddingInput):
        if not task.input.texts:
            return No(reason=Reason.MALFORMED_OFFER, detail="no text to embed")
    elif task.max_tokens < 1:
        return No(reason=Reason.MALFORMED_OFFER, detail=f"max_tokens {task.max_tokens} asks for nothing")
    return None


def _judge_evidence(asked: VerifyInput) -> No | None:
    evidence = asked.evidence
    if not _NONCE.fullmatch(evidence.sha256) or not 0 < evidence.bytes <= MAX_BLOB_BYTES:
        detail = f"evidence is named by 64 hex digits, and has 1 to {MAX_BLOB_BYTES} bytes"
    elif len(asked.leaves) > MOST_LEAVES or list(asked.leaves) != sorted(set(asked.leaves)):
        detail = f"leaves to repeat are at most {MOST_LEAVES}, in order, none twice"
    else:
        return None
    return No(reason=Reason.MALFORMED_OFFER, detail=detail)


def place(task: TaskSpec, pools: Iterable[Pool], free: dict[str, int]) -> Pool | No:
    """The pool that takes the task, or why none does; the reason closest to a yes is given."""
    candidates = [pool for pool in pools if pool.model_digest == task.model_digest]
    if not candidates:
        return No(reason=Reason.UNKNOWN_MODEL, detail=f"no pool serves model {task.model_digest}")
    able = [pool for pool in candidates if task.kind in pool.kinds]
    if not able:
        return No(reason=Reason.UNSUPPORTED_KIND, detail=f"no pool of this model does {task.kind.value} tasks")
    fitting = [pool for pool in able if task.max_tokens < pool.context_tokens]
    if not fitting:
        longest = max(pool.context_tokens for pool in able)
        return No(
            reason=Reason.CONTEXT_TOO_LONG,
            detail=f"max_tokens {task.max_tokens} does not fit a context of {longest} tokens",
        )
    ready = [pool for pool in fitting if pool.ready]
    if not ready:
        return No(reason=Reason.POOL_NOT_READY, detail=fitting[0].detail or "the engine is starting")
    for pool in ready:
        if free.get(pool.name, 0) > 0:
            return pool
    return No(reason=Reason.NO_CREDIT, detail="every slot of this model is taken")
