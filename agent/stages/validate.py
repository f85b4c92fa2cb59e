"""Validate: bring another node's evidence, repeat what it claims on an engine of one's own, and seal the verdict."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from agent.core.checks.claim import Claim
from agent.core.checks.claims import chunks
from agent.core.checks.evidence import Evidence, opened_claim, read_evidence
from agent.core.checks.forward import figures_sha256
from agent.core.checks.imprints import Imprinted
from agent.core.checks.verdict import Metrics, Thresholds, Verdict, is_certain, judge
from agent.core.errors import EngineError, ProofError
from agent.core.fingerprint import Pool
from agent.core.model import Blob, ChatInput, CompletionInput, LeaseKey, Reason, TaskKind, Timings, VerifyInput
from agent.core.payloads import RecomputedLeaf, VerdictBody
from agent.core.proof.header import Header
from agent.core.proof.receipt import Case
from agent.core.proof.sealing import leaf_of, output_of, sealed
from agent.core.text import plain
from agent.ports import Clock, EnginePool, Identity
from agent.stages.calls import Caller
from agent.stages.product import VerdictProduct
from agent.stages.recheck import is_prompt, with_model
from agent.stages.supply import fetch

Limits = Callable[[Pool, str, TaskKind], Thresholds | None]
"""(our pool, engine of the claim, kind of the claim's task) → limits of F, T, rows; None: there is no calibration."""
TOLD_CHUNKS = 64
"""Whose figures a verdict tells one by one."""
MOST_REASONS, REASON_CHARS = 16, 300


class UnfitError(Exception):
    """This pool is not the one to check this claim: another may be. Says nothing of the claim."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class _Brought(NamedTuple):
    evidence: Evidence
    limits: Thresholds | None
    """None: not needed, for the claim is of the pool's own exact class, or nothing but a fault."""


class Validate:
    """Keeps the evidence of attempts between their staging and their end."""

    def __init__(
        self,
        caller: Caller,
        identity: Identity,
        pools: Mapping[str, EnginePool],
        limits: Limits,
        clock: Clock,
        salt: Callable[[], str],
    ) -> None:
        """`salt`: 32 fresh random bytes, hex."""
        self._caller = caller
        self._identity = identity
        self._pools = pools
        self._limits = limits
        self._clock = clock
        self._salt = salt
        self._brought: dict[LeaseKey, _Brought] = {}
        self._line = asyncio.Lock()

    async def bring(self, key: LeaseKey, pool: str, asked: VerifyInput) -> None:
        """The evidence is here and read when this returns. Raises EngineError, UnfitError."""
        async with self._line:  # one at a time: each may have 64 MiB, and takes several times that to read
            draft = _Draft(asked.evidence)
            await fetch(self._caller, draft, asked.evidence.bytes)
            raw = draft.settle()
            identity = self._identity
            evidence = await asyncio.to_thread(read_evidence, raw, identity.verify, identity.coordinator_key)
        limits = await self._fitting(pool, evidence.case) if evidence.case else None
        self._brought[key] = _Brought(evidence, limits)

    def drop(self, key: LeaseKey) -> None:
        """The attempt is over."""
        self._brought.pop(key, None)

    async def product(self, key: LeaseKey, pool: str, asked: VerifyInput) -> VerdictProduct:
        """Check what was brought. Raises EngineError."""
        began, brought = self._clock.monotonic(), self._brought.pop(key)
        body = await self._verdict(self._pools[pool], brought, asked)
        running_ms = round((self._clock.monotonic() - began) * 1000)
        return VerdictProduct(
            output=output_of(sealed(body).root), builder=leaf_of(body), timings=Timings(running_ms=running_ms)
        )

    async def _fitting(self, name: str, case: Case) -> Thresholds | None:
        """The limits that its claim is judged by. Raises EngineError, UnfitError."""
        header, facts = case.header, self._pools[name].facts
        if not isinstance(header, Header) or header.task_kind not in facts.kinds:
            raise UnfitError(Reason.UNSUPPORTED_KIND, f"this pool does no {header.task_kind.value} tasks")
        given = case.offer.task.input
        long = header.prompt_tokens + header.completion_tokens > facts.context_tokens
        if long and isinstance(given, ChatInput | CompletionInput):  # texts to embed are read one by one
            await self._check_length(name, header, given)
        if is_exact(header, facts):
            return None
        limits = self._limits(facts, header.engine, header.task_kind)
        if limits is None:
            raise UnfitError(
                Reason.UNCALIBRATED, f"there is no calibration of {header.engine} for this model, nor is this its class"
            )
        return limits

    async def _check_length(self, name: str, header: Header, given: ChatInput | CompletionInput) -> None:
        """By one's own count: were the claimed one believed, too high a count, which is paid, would keep everybody from
        a verdict. Whoever counts wrong is to be judged, however long the prompt is. Raises EngineError, UnfitError.
        """
        pool = self._pools[name]
        async with pool.replayer() as replayer:
            prompt = await replayer.prompt_ids(given)
        if header.prompt_sha256 and not is_prompt(header, prompt):
            return
        if len(prompt) + header.completion_tokens > pool.facts.context_tokens:
            tokens, most = f"{len(prompt)} prompt tokens and {header.completion_tokens} more", pool.facts.context_tokens
            raise UnfitError(Reason.CONTEXT_TOO_LONG, f"{tokens} do not fit a context of {most} tokens")

    async def _verdict(self, pool: EnginePool, brought: _Brought, asked: VerifyInput) -> VerdictBody:
        evidence, facts, limits = brought.evidence, pool.facts, brought.limits or Thresholds()
        body = VerdictBody(
            evidence=evidence.sha256,
            verdict=Verdict.FAIL,
            certain=True,
            reasons=(plain(evidence.fault, REASON_CHARS),),
            thresholds=limits.version,
            determinism=facts.determinism,
            exact=False,
            recomputed=(),
            copied=0,
            salt=self._salt(),
        )
        if evidence.case is None:
            return body
        try:
            claim = await asyncio.to_thread(opened_claim, evidence.case)
        except ProofError as error:
            fault = plain(f"{error.check}: {error.message}", REASON_CHARS)
            return msgspec.structs.replace(body, reasons=(fault,))
        assert claim is not None  # `_fitting` saw what was asked for
        exact = is_exact(claim.header, facts)
        async with pool.replayer() as replayer:
            # Leaf by leaf, behind a prefill: so one's own figures of a generation are never quite the claimed ones.
            found = await with_model(claim, replayer, chosen=asked.leaves, exact=exact, apart=not exact)
        judged = judge(found, limits)
        return msgspec.structs.replace(
            body,
            verdict=judged.verdict,
            certain=is_certain(found),
            reasons=tuple(plain(reason, REASON_CHARS) for reason in judged.reasons[:MOST_REASONS]),
            exact=exact,
            recomputed=tuple(RecomputedLeaf(leaf=one.leaf, sha256=one.recomputed) for one in found.chunks),
            copied=_copied(claim, found),
            imprints=len(found.imprints.distances) if found.imprints else 0,
            metrics=_told(found),
        )


def is_exact(header: Header, facts: Pool) -> bool:
    """Whether a repetition by this pool must be equal to the bit. A class is of one engine: who names its class beside
    another engine's name would have neither the draws of the one checked nor be asked for a calibration of the other.
    """
    ours = (header.engine, header.determinism) == (facts.engine, facts.determinism)
    return ours and facts.determinism.startswith("X-") and facts.slots == 1


def _copied(claim: Claim, found: Metrics) -> int:
    claimed = {chunk.leaf: figures_sha256(chunk.positions) for chunk in chunks(claim.leaves)}
    return sum(claimed[one.leaf] == one.recomputed for one in found.chunks)


def _told(found: Metrics) -> str:
    """JSON for people. A figure that is not finite is null."""
    figures: dict[str, Any] = {
        "sampling": found.sampled and found.sampled._asdict(),
        "ending": found.ending and found.ending._asdict(),
        "prompt": found.prompt,
        "exact": found.exact and found.exact._asdict(),
        "unknown": found.unknown,
        "toploc": found.imprints and _told_imprints(found.imprints),
        "rows": found.rows and {"compared": found.rows.compared, "least": found.rows.least},
        "chunks": [
            {"leaf": one.leaf, "closeness": one.close._asdict(), "plausibility": one.plausible._asdict()}
            for one in found.chunks[:TOLD_CHUNKS]
        ],
    }
    for name in ("mismatches", "malformed"):
        if figures["sampling"]:
            figures["sampling"][name] = len(figures["sampling"][name])
    return msgspec.json.encode(figures).decode()


def _told_imprints(found: Imprinted) -> dict[str, Any]:
    told = [one._asdict() for one in found.distances[:TOLD_CHUNKS]]
    return {"committed": found.committed, "faults": len(found.faults), "distances": told}


class _Draft:
    """Evidence on its way in, in memory: a coordinator sends what it announced, or nothing is kept."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._raw = bytearray()

    @property
    def sha256(self) -> str:
        return self._blob.sha256

    def write(self, piece: bytes) -> None:
        """Raises EngineError."""
        self._raw += piece
        if len(self._raw) > self._blob.bytes:
            raise EngineError(Reason.BLOB_UNAVAILABLE, f"more came than the {self._blob.bytes} bytes announced")

    def restart(self) -> None:
        self._raw.clear()

    def settle(self) -> bytes:
        """Raises EngineError."""
        raw = bytes(self._raw)
        if (len(raw), hashlib.sha256(raw).hexdigest()) != (self._blob.bytes, self.sha256):
            raise EngineError(Reason.BLOB_UNAVAILABLE, f"{len(raw)} other bytes came than were announced")
        return raw
