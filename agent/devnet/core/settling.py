"""What becomes of a result: accepted, stale, duplicate, unknown or rejected; and what it earns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from agent.core.model import ExecInput, ExecLimits, Outcome, Reason, Signed, Usage, VerifyInput
from agent.core.proof.commitment import read_commitment
from agent.core.proof.signed import seal_all
from agent.core.proof.verdict import VerdictHeader
from agent.core.text import plain
from agent.core.wire import (
    MAX_DELIVERIES,
    Answer,
    Delivery,
    OfferBody,
    Receipt,
    ReceiptBody,
    ReceiptStatus,
    Refusal,
    Result,
    ResultBody,
    Role,
    encode,
)
from agent.devnet.core.book import Book
from agent.devnet.core.delivery import Delivered, Sizes, open_delivery
from agent.devnet.core.effects import Decision, SaveLedgerLine, SaveSettlement
from agent.devnet.core.granting import conclude
from agent.devnet.core.judging import faults_of
from agent.devnet.core.leasing import avoid_after_return
from agent.devnet.core.proofs import epochs, validating
from agent.devnet.core.records import UNHARMED, Episode, Lease, LedgerLine, Settlement, Task, TaskState
from agent.devnet.core.rules import PASSING, Instant, Refused, bad_message

_OFFER = msgspec.json.Decoder(OfferBody)


class _Judged(NamedTuple):
    """A receipt to be signed, and the accepted result that it closes."""

    body: ReceiptBody
    accepted: Delivered | None = None
    offer: Signed | None = None


def deliver(book: Book, when: Instant, node_id: str, message: Result, sizes: Sequence[Sizes]) -> Decision[Receipt]:
    """Judge results in their order and acknowledge each; their receipts share one signature.

    `sizes` are those of each delivery's blobs. Raises Refused for too many at once; what is wrong with one delivery is
    its answer.
    """
    if len(message.deliveries) > MAX_DELIVERIES:
        raise bad_message(f"a result message carries {MAX_DELIVERIES} deliveries at most")
    judged = [
        _take(book, when, node_id, delivery, theirs) for delivery, theirs in zip(message.deliveries, sizes, strict=True)
    ]
    bodies = [encode(one.body) for one in judged if isinstance(one, _Judged)]
    receipts = iter(seal_all(Role.RECEIPT, bodies, book.key, book.sign))
    answers = tuple(_answer(book, one, receipts) for one in judged)
    return conclude(book, when, Receipt(answers=answers))


def _take(book: Book, when: Instant, node_id: str, delivery: Delivery, sizes: Sizes) -> _Judged | Refusal:
    try:
        delivered = open_delivery(book, node_id, delivery, sizes)
    except Refused as error:
        return error.told()
    status, detail = _judge(book, node_id, delivered)
    task = book.tasks.get(delivered.body.task_id)
    if status is ReceiptStatus.DUPLICATE:
        assert task is not None
        return _Judged(msgspec.structs.replace(task.receipts[delivered.body.idem_key], status=status))
    body = _receipt_body(book, when, node_id, delivered, status, detail)
    if status is ReceiptStatus.ACCEPTED:
        assert task is not None
        return _Judged(body, delivered, _accept(book, when, task, delivered, body))
    if status is ReceiptStatus.REJECTED and task and book.held_by(node_id, delivered.body.key):
        book.avoid(task, node_id, when.now + book.rules.pause_after_decline_s)
        book.end_lease(task, when, Outcome.FAILED, Reason.PROOF_FAILED, f"rejected: {detail}", counts=True)
    return _Judged(body)


def _answer(book: Book, judged: _Judged | Refusal, receipts: Iterator[Signed]) -> Answer:
    if isinstance(judged, Refusal):
        return Answer(refusal=judged)
    receipt = next(receipts)
    if judged.accepted is not None and judged.offer is not None:
        book.write(SaveSettlement(settlement=_settlement(judged.offer, judged.accepted, judged.body, receipt)))
    return Answer(signed=receipt)


def _judge(book: Book, node_id: str, delivered: Delivered) -> tuple[ReceiptStatus, str]:
    body = delivered.body
    task = book.tasks.get(body.task_id)
    if task is None:
        return ReceiptStatus.UNKNOWN, "no such task here"
    if (first := task.receipts.get(body.idem_key)) and first.node_id == node_id:
        return ReceiptStatus.DUPLICATE, ""
    lease = task.progress.lease
    if lease is None or body.attempt > lease.key.attempt:
        return ReceiptStatus.REJECTED, "this attempt was never granted"
    if stale := _came_too_late(task, lease, body):
        return ReceiptStatus.STALE, stale
    faults = faults_of(node_id, delivered, lease, _OFFER.decode(lease.offer.payload))
    return (ReceiptStatus.REJECTED, "; ".join(faults)) if faults else (ReceiptStatus.ACCEPTED, "")


def _came_too_late(task: Task, lease: Lease, body: ResultBody) -> str:
    """Why it is stale. A cancelled task still takes the report of how its attempt stopped, but no output."""
    if body.key != lease.key:
        return f"attempt {lease.key.attempt} has been granted since"
    match task.progress.state:
        case TaskState.QUEUED | TaskState.LEASED:
            return ""
        case TaskState.CANCELLED:
            return "" if body.outcome is not Outcome.SUCCEEDED else "the task was cancelled"
        case TaskState.SETTLED | TaskState.FAILED:
            return f"the task is {task.progress.state.value}: {task.progress.detail}".removesuffix(": ")


def _accept(book: Book, when: Instant, task: Task, delivered: Delivered, receipt: ReceiptBody) -> Signed:
    """Returns the offer that the result answers."""
    lease = task.progress.lease
    assert lease is not None
    body = delivered.body
    task.receipts[body.idem_key] = receipt
    if body.outcome is Outcome.SUCCEEDED:
        _settle(book, when, task, body, receipt)
    elif task.progress.state is TaskState.LEASED:
        _unsettled(book, when, task, lease, body)
    return lease.offer


def _settlement(offer: Signed, delivered: Delivered, body: ReceiptBody, receipt: Signed) -> Settlement:
    return Settlement(
        idem_key=body.idem_key,
        task_id=body.task_id,
        offer=offer,
        result=delivered.signed,
        receipt=receipt,
        receipt_body=body,
        usage=delivered.body.usage,
        output=delivered.output,
        blob=delivered.blob,
        artifact=delivered.artifact,
    )


def _settle(book: Book, when: Instant, task: Task, body: ResultBody, receipt: ReceiptBody) -> None:
    episode = _episode(when, body)
    story = task.progress.story_with(episode)
    settled = msgspec.structs.replace(
        task.progress, state=TaskState.SETTLED, settled_by=body.idem_key, story=story, detail=""
    )
    book.move(task, settled, episode)
    line = LedgerLine(
        receipt_id=receipt.receipt_id,
        node_id=body.node_id,
        task_id=task.task_id,
        idem_key=body.idem_key,
        usage=body.usage,
        amount_micros=receipt.amount_micros,
        currency=receipt.currency,
        at=when.at,
    )
    book.write(SaveLedgerLine(line=line))
    epochs.consider(book, task, body, receipt)
    if isinstance(task.demand.spec.input, VerifyInput) and body.commitment is not None:
        header = read_commitment(body.commitment, book.node(body.node_id).record.node_key)
        validating.sealed(book, when, task, body, header.determinism if isinstance(header, VerdictHeader) else "")


def _unsettled(book: Book, when: Instant, task: Task, lease: Lease, body: ResultBody) -> None:
    """Given back unharmed: free at once for every other node. A failure counts, and another node may try first."""
    unharmed = body.outcome in UNHARMED
    if unharmed:
        passing = body.outcome is Outcome.HANDED_BACK or body.reason in PASSING
        avoid_after_return(book, when, task, lease.node_id, passing=passing)
    else:
        book.avoid(task, lease.node_id, when.now + book.rules.pause_after_failure_s)
    book.end_lease(task, when, body.outcome, body.reason, body.detail, counts=not unharmed)


def _episode(when: Instant, body: ResultBody) -> Episode:
    return Episode(
        attempt=body.attempt,
        node_id=body.node_id,
        outcome=body.outcome,
        reason=body.reason,
        detail=plain(body.detail, 500),
        ended_at=when.at,
    )


def price_micros(usage: Usage, micros_per_million: int) -> int:
    """Whole micros, rounded down: what cannot be paid in full is not owed."""
    return (usage.prompt_tokens + usage.completion_tokens) * micros_per_million // 1_000_000


def program_micros(limits: ExecLimits, running_ms: int, micros_per_cpu_hour: int) -> int:
    """Likewise, for the processors that were asked for; no longer than the program was allowed to run."""
    billed_ms = min(running_ms, limits.wall_s * 1000)
    return billed_ms * limits.cpu_millis * micros_per_cpu_hour // (3_600_000 * 1000)


def _amount_micros(book: Book, body: ResultBody) -> int:
    task = book.tasks[body.task_id].demand.spec
    if isinstance(task.input, ExecInput):
        return program_micros(task.input.limits, body.timings.running_ms, book.rules.price_micros_per_cpu_hour)
    usage = epochs.billed(book, body.node_id, body.usage, task.input, body.commitment)
    price = price_micros(usage, book.rules.price_micros_per_million_tokens)
    return epochs.paid_micros(book, body.node_id, price, task.kind, body.commitment)


def receipt_id_of(node_id: str, idem_key: str, result_sha256: str) -> str:
    """A receipt's id follows from what it is for."""
    return "r-" + hashlib.sha256(f"{node_id}\0{idem_key}\0{result_sha256}".encode()).hexdigest()[:24]


def _receipt_body(
    book: Book, when: Instant, node_id: str, delivered: Delivered, status: ReceiptStatus, detail: str
) -> ReceiptBody:
    body = delivered.body
    pays = status is ReceiptStatus.ACCEPTED and body.outcome is Outcome.SUCCEEDED
    return ReceiptBody(
        receipt_id=receipt_id_of(node_id, body.idem_key, delivered.sha256),
        node_id=node_id,
        task_id=body.task_id,
        attempt=body.attempt,
        fence=body.fence,
        idem_key=body.idem_key,
        status=status,
        result_sha256=delivered.sha256,
        received_at=when.at,
        detail=detail,
        output_sha256=body.output_sha256,
        commitment_root=body.commitment.root if body.commitment else "",
        amount_micros=_amount_micros(book, body) if pays else 0,
        currency=book.rules.currency if pays else "",
        beacon=epochs.promise(book, when, node_id, book.tasks[body.task_id]) if pays else None,
    )
