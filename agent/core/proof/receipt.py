"""Checks one task's receipt bundle offline: who signed what, and whether all of it is about the same thing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import msgspec

from agent.core import wire
from agent.core.errors import ProofError
from agent.core.model import Commitment, Outcome, Signed
from agent.core.proof.beacon import Bls, Draw, checkable, draw_of
from agent.core.proof.commitment import AnyHeader, check_header, read_commitment
from agent.core.proof.files import leaves_of
from agent.core.proof.leaves import check_kinds, check_leaves, split_leaves
from agent.core.proof.opening import AnyLeaf, OpenedTranscript, read_opening
from agent.core.proof.signed import Verify, open_signed
from agent.core.proof.transcript import TranscriptBuilder

T = TypeVar("T")

SUPPORTED_VERSION = 1
_MOST_NAMED = 8
_JUDGED = ("node_id", "task_id", "attempt", "fence")
_SHARED = (*_JUDGED, "idem_key")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundle and what was read from it. Signatures are checked before any other field is believed."""

    bundle: wire.ReceiptBundle
    verify: Verify
    pinned_key: str
    offer: wire.OfferBody
    result: wire.ResultBody
    receipt: wire.ReceiptBody
    judgement: wire.JudgementBody | None = None
    transcript: bytes | None = None
    """The node's own record, where it is at hand."""
    artifact: bytes | None = None
    """What a program left, where it is at hand."""
    bls: Bls | None = None
    """Checks drand's signatures."""

    @property
    def commitment(self) -> Commitment:
        """Raises ProofError("commitment") when there is none."""
        if self.result.commitment is None:
            raise ProofError("commitment", "the result carries no commitment")
        return self.result.commitment

    @cached_property
    def header(self) -> AnyHeader:
        """The committed header. Raises ProofError."""
        return read_commitment(self.commitment, self.bundle.result.key)

    @cached_property
    def opened(self) -> OpenedTranscript | None:
        """What the bundle shows of the transcript. Raises ProofError."""
        if self.bundle.opening is None:
            return None
        opened = read_opening(self.bundle.opening, self.commitment)
        check_kinds(opened.leaves, self.header.proof_kind)
        return opened

    @cached_property
    def leaves(self) -> tuple[AnyLeaf, ...]:
        """What is at hand of the transcript, of both the most; nothing, perhaps. Raises ProofError."""
        if self.transcript is not None:
            leaves = check_leaves(split_leaves(self.transcript), self.commitment)
            check_kinds(leaves, self.header.proof_kind)
            return leaves
        return self.opened.leaves if self.opened else ()

    @cached_property
    def draw(self) -> Draw | None:
        """What the bundle's beacon drew; None without one that can be checked here. Raises ProofError("beacon")."""
        shown = self.opened.opened if self.opened else ()
        return draw_of(self.receipt, self.commitment, self.bundle.beacon, self.bls, shown)


@dataclass(frozen=True)
class Check:
    """One check: its name for programs, what it shows for people."""

    name: str
    says: str
    run: Callable[[Case], None]
    of_success_only: bool = False
    """Asked only of an attempt that succeeded: others have no output and no commitment."""


def _coordinator_key(case: Case) -> None:
    key = case.bundle.coordinator_key
    if case.pinned_key and key != case.pinned_key:
        raise ProofError("coordinator_key", f"the bundle names {key[:16]}…, you expect {case.pinned_key[:16]}…")
    bundle = case.bundle
    for name, signed in (("offer", bundle.offer), ("receipt", bundle.receipt), ("judgement", bundle.judgement)):
        if signed and signed.key != key:
            raise ProofError(
                "coordinator_key", f"the {name} is signed by {signed.key[:16]}…, the bundle names {key[:16]}…"
            )


def _signature(name: str, role: wire.Role, part: Callable[[Case], Signed]) -> Check:
    def run(case: Case) -> None:
        signed = part(case)
        try:
            open_signed(role, signed, signed.key, case.verify)
        except ProofError as error:
            raise ProofError(name, error.message) from error

    signer = "node" if role is wire.Role.RESULT else "coordinator"
    return Check(name, f"the {role.value.rpartition('/')[2]} is signed by the {signer}", run)


def _same_attempt(case: Case) -> None:
    offer = (case.offer.node_id, case.offer.task.task_id, case.offer.attempt, case.offer.fence, case.offer.idem_key)
    for name, body in (("result", case.result), ("receipt", case.receipt)):
        theirs = tuple(getattr(body, field) for field in _SHARED)
        differing = [field for field, ours, other in zip(_SHARED, offer, theirs, strict=True) if ours != other]
        if differing:
            raise ProofError("same_attempt", f"the {name}'s {', '.join(differing)} is not the offer's")


def _result_digest(case: Case) -> None:
    if hashlib.sha256(case.bundle.result.payload.encode()).hexdigest() != case.receipt.result_sha256:
        raise ProofError("result_digest", "the receipt is for another result")


def _accepted(case: Case) -> None:
    if case.receipt.status not in (wire.ReceiptStatus.ACCEPTED, wire.ReceiptStatus.DUPLICATE):
        raise ProofError("accepted", f"the coordinator's answer was {case.receipt.status}: {case.receipt.detail}")


def _output_digest(case: Case) -> None:
    if case.receipt.output_sha256 != case.result.output_sha256:
        raise ProofError("output_digest", "receipt and result name different outputs")
    if case.bundle.output is None:
        return
    raw = case.bundle.output.encode()
    if hashlib.sha256(raw).hexdigest() != case.result.output_sha256 or len(raw) != case.result.output_bytes:
        raise ProofError("output_digest", "the output is not the one that was delivered")


def _commitment(case: Case) -> None:
    _ = case.header


def _header_offer(case: Case) -> None:
    check_header(case.header, case.offer)


def _header_result(case: Case) -> None:
    header, result = case.header, case.result
    if header.output_sha256 != result.output_sha256:
        raise ProofError("header_output", "the node committed to another output")
    if header.artifact != (result.artifact.sha256 if result.artifact else ""):
        raise ProofError("header_output", "the node committed to another artifact")
    if (header.prompt_tokens, header.completion_tokens) != (result.usage.prompt_tokens, result.usage.completion_tokens):
        raise ProofError("header_output", "the node committed to other token counts")


def _transcript(case: Case) -> None:
    _ = case.leaves


def _opening(case: Case) -> None:
    _ = case.opened


def _beacon(case: Case) -> None:
    _ = case.draw


def _draw(case: Case) -> None:
    if case.draw and case.opened and (hidden := sorted(set(case.draw.leaves) - set(case.opened.opened))):
        shown = ", ".join(map(str, hidden[:_MOST_NAMED])) + (" …" if len(hidden) > _MOST_NAMED else "")
        raise ProofError("draw", f"the beacon drew leaves that are not shown: {shown}")


def _artifact(case: Case) -> None:
    raw, signed = case.artifact or b"", case.result.artifact
    if signed is None or (hashlib.sha256(raw).hexdigest(), len(raw)) != (signed.sha256, signed.bytes):
        raise ProofError("artifact", "this is not the archive that the node signed for")
    builder = TranscriptBuilder(0)
    builder.add_files(leaves_of(raw))
    if builder.finish().root != case.commitment.root:
        raise ProofError("artifact", "the archive's members are not those that were committed to")


def _judgement_of(case: Case) -> Signed:
    assert case.bundle.judgement is not None
    return case.bundle.judgement


def _judgement(case: Case) -> None:
    judged = case.judgement
    assert judged is not None
    if judged.subject is not wire.Subject.ANSWER:
        raise ProofError("judgement", "the judgement is about a validator's work, not about this answer")
    differing = [field for field in _JUDGED if getattr(judged, field) != getattr(case.receipt, field)]
    if differing:
        raise ProofError("judgement", f"the judgement's {', '.join(differing)} is not the receipt's")


def _root(case: Case) -> None:
    if case.receipt.commitment_root != case.commitment.root:
        raise ProofError("root", "the receipt is for another commitment")


CHECKS = (
    Check("coordinator_key", "offer and receipt are by one coordinator", _coordinator_key),
    _signature("offer_signature", wire.Role.OFFER, lambda case: case.bundle.offer),
    _signature("result_signature", wire.Role.RESULT, lambda case: case.bundle.result),
    _signature("receipt_signature", wire.Role.RECEIPT, lambda case: case.bundle.receipt),
    Check("same_attempt", "offer, result and receipt are about one attempt on one node", _same_attempt),
    Check("result_digest", "the receipt is for exactly this result", _result_digest),
    Check("accepted", "the coordinator accepted the result", _accepted),
    Check("output_digest", "the output is the one that was delivered", _output_digest, True),
    Check("commitment", "the node committed to its transcript, by the key that signed the result", _commitment, True),
    Check("header_offer", "model, seed, sampling and limits are those that were asked for", _header_offer, True),
    Check("header_output", "the commitment is to this output and these token counts", _header_result, True),
    Check("root", "the receipt is for exactly this commitment", _root, True),
)
TRANSCRIPT_CHECK = Check("transcript", "the transcript is the one that was committed to", _transcript, True)
OPENING_CHECK = Check("opening", "the opened leaves are some of those that were committed to", _opening, True)
BEACON_CHECK = Check("beacon", "the beacon that drew is the one that the receipt promised", _beacon, True)
DRAW_CHECK = Check("draw", "what the beacon drew is what is shown", _draw, True)
ARTIFACT_CHECK = Check("artifact", "the archive is the one that the program left, file for file", _artifact, True)
JUDGEMENT_CHECKS = (
    _signature("judgement_signature", wire.Role.JUDGEMENT, _judgement_of),
    Check("judgement", "the judgement is about this attempt", _judgement),
)
"""In order: each may rely on those before it. A failed commitment names its part: `commitment_header`,
`commitment_key` or `commitment_root`."""


@dataclass(frozen=True)
class Verdict:
    """How far a bundle's checks went."""

    passed: tuple[Check, ...]
    failed: Check | None = None
    error: ProofError | None = None
    case: Case | None = None
    """None when the bundle could not even be read."""


def examine(
    bundle: wire.ReceiptBundle,
    verify: Verify,
    *,
    coordinator_key: str = "",
    transcript: bytes | None = None,
    artifact: bytes | None = None,
    bls: Bls | None = None,
    opening: bool = True,
) -> Verdict:
    """Run the checks in order up to the first that fails. Never raises. See `verify_bundle` for `coordinator_key`.

    Without `bls` what a round of drand drew is left aside. Not `opening`: whoever asks `Case.opened` later sees whether
    the opened leaves hold. Read, they take up to 20 times their bytes.
    """
    try:
        case = read_case(bundle, verify, coordinator_key, transcript, artifact, bls)
    except ProofError as error:
        return Verdict((), error=error)
    passed: list[Check] = []
    for check in applicable(case, opening=opening):
        try:
            check.run(case)
        except ProofError as error:
            return Verdict(tuple(passed), check, error, case)
        passed.append(check)
    return Verdict(tuple(passed), case=case)


def verify_bundle(bundle: wire.ReceiptBundle, verify: Verify, *, coordinator_key: str = "") -> list[str]:
    """The names of the checks passed. Raises ProofError naming the check that failed.

    With `coordinator_key` (hex) the bundle must be by that coordinator; without it, it is only consistent in itself.
    """
    verdict = examine(bundle, verify, coordinator_key=coordinator_key)
    if verdict.error is not None:
        raise verdict.error
    return [check.name for check in verdict.passed]


def applicable(case: Case, *, opening: bool = True) -> tuple[Check, ...]:
    """The checks that this bundle's outcome calls for."""
    succeeded = case.result.outcome is Outcome.SUCCEEDED
    shown, drew = opening and case.bundle.opening is not None, checkable(case.bundle.beacon, case.bls)
    asked = (
        (case.transcript is not None, TRANSCRIPT_CHECK),
        (shown, OPENING_CHECK),
        (drew, BEACON_CHECK),
        (drew and shown, DRAW_CHECK),
        (case.artifact is not None, ARTIFACT_CHECK),
    )
    judging = JUDGEMENT_CHECKS if case.judgement else ()
    checks = (*CHECKS, *judging, *(check for given, check in asked if given))
    return tuple(check for check in checks if succeeded or not check.of_success_only)


def read_case(
    bundle: wire.ReceiptBundle,
    verify: Verify,
    coordinator_key: str = "",
    transcript: bytes | None = None,
    artifact: bytes | None = None,
    bls: Bls | None = None,
) -> Case:
    """Parse the signed bodies. Raises ProofError("format")."""
    if bundle.version != SUPPORTED_VERSION:
        raise ProofError("format", f"bundle version {bundle.version} is unknown; this is version {SUPPORTED_VERSION}")
    return Case(
        bundle=bundle,
        verify=verify,
        pinned_key=coordinator_key,
        transcript=transcript,
        artifact=artifact,
        bls=bls,
        offer=_body("offer", bundle.offer, wire.OfferBody),
        result=_body("result", bundle.result, wire.ResultBody),
        receipt=_body("receipt", bundle.receipt, wire.ReceiptBody),
        judgement=_body("judgement", bundle.judgement, wire.JudgementBody) if bundle.judgement else None,
    )


def _body(name: str, signed: Signed, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(signed.payload, type=kind)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ProofError("format", f"the {name} cannot be read: {error}") from error
