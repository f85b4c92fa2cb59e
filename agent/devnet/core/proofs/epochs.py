"""Beacons: which one is promised with a receipt, and what happens when it is known.

The embedded beacon is a secret for each epoch. Its digest stands in every receipt of the epoch, itself it is told when
the epoch is over. The coordinator knows it all the time, so it can keep the results that are drawn and forget the
others at once; nobody else sees a difference before the epoch's end.
"""

from __future__ import annotations

import hashlib
from math import ceil
from typing import Final

import msgspec

from agent.core.model import Commitment, LeaseKey, TaskInput, TaskKind, Usage, VerifyInput
from agent.core.payloads import Beacon, BeaconPromise, BeaconSource, ReceiptBody, ResultBody
from agent.core.proof.commitment import header_bytes
from agent.core.proof.drand import QUICKNET
from agent.core.proof.drawing import MILLION, is_drawn
from agent.core.proof.header import Header, decode_header
from agent.core.wire import encode
from agent.devnet.core.book import Book
from agent.devnet.core.effects import SaveEpoch
from agent.devnet.core.proofs import cases
from agent.devnet.core.proofs.level_two import repeatable
from agent.devnet.core.proofs.records import Case, Epoch
from agent.devnet.core.proofs.standing import standing_of, work_of
from agent.devnet.core.records import Task
from agent.devnet.core.rules import Instant

CHALLENGED_KINDS: Final = frozenset({TaskKind.CHAT, TaskKind.COMPLETION, TaskKind.EMBEDDING})
"""What programs leave is not drawn: it could only be compared with another run. Verdicts are judged in their case."""

BYTES_A_TOKEN, TEMPLATE_TOKENS = 2, 128
"""Of a prompt: tokenizers take three or four bytes together in most languages; and what a chat template adds."""


def turn(book: Book, when: Instant, chance: str) -> None:
    """Close the epoch when it is over and have another ready; `chance` is 32 fresh random bytes, hex.

    An epoch begins with the first receipt that promises it, so that an idle coordinator writes nothing.
    """
    epoch = book.docket.epoch
    if epoch is None:
        book.docket.epoch = Epoch(number=book.docket.last_epoch + 1, secret=chance)
    elif epoch.begins_at and not epoch.begins_at <= when.at < epoch.ends_at:
        told = msgspec.structs.replace(epoch, told=True)
        book.write(SaveEpoch(epoch=told))
        book.docket.epoch = Epoch(number=epoch.number + 1, secret=chance)
        arrived(book, when, Beacon(source=BeaconSource.EPOCH, round=epoch.number, value=epoch.secret))


def promise(book: Book, when: Instant, node_id: str, task: Task) -> BeaconPromise | None:
    """What a receipt says now of a coming challenge; None when there will be none."""
    rules = book.rules.proofs
    if not rules.rate_micros or task.demand.spec.kind not in CHALLENGED_KINDS or book.docket.epoch is None:
        return None
    suspected = standing_of(book, node_id).suspected > 0
    source, number, commitment = _round(book, when, book.docket.epoch)
    return BeaconPromise(
        source=source,
        round=number,
        commitment=commitment,
        rate_micros=MILLION if suspected else rules.rate_micros,
        leaves=rules.leaves,
    )


def _round(book: Book, when: Instant, epoch: Epoch) -> tuple[BeaconSource, int, str]:
    """Which round decides over what comes now, and what it will be held against.

    Of drand one that is not public yet. While it has shown nothing, our own epochs decide.
    """
    if book.rules.proofs.beacon is BeaconSource.DRAND and book.docket.drand_ahead is not None:
        return BeaconSource.DRAND, QUICKNET.round_to_promise(drand_at(book, when)), QUICKNET.hash
    epoch = _begun(book, when, epoch)
    return BeaconSource.EPOCH, epoch.number, hashlib.sha256(bytes.fromhex(epoch.secret)).hexdigest()


def shown(book: Book, when: Instant, number: int) -> None:
    """A round of drand is public: so much time has passed for sure, whatever our clock says."""
    ahead = QUICKNET.time_of(number) - when.now
    known = book.docket.drand_ahead
    book.docket.drand_ahead = ahead if known is None else max(known, ahead)


def drand_at(book: Book, when: Instant) -> int:
    """How late it is, in Unix seconds: by our clock, or by what drand itself has shown. Clocks are late."""
    ahead = book.docket.drand_ahead
    return when.at if ahead is None else max(when.at, ceil(when.now + ahead))


def awaited(book: Book, when: Instant) -> tuple[int, ...]:
    """Rounds of drand that results wait for and that should be known by now."""
    rounds = (number for source, number in book.docket.waiting if source is BeaconSource.DRAND)
    return tuple(sorted(number for number in rounds if QUICKNET.time_of(number) <= drand_at(book, when)))


def consider(book: Book, task: Task, result: ResultBody, receipt: ReceiptBody) -> None:
    """A result was accepted: make a case of it, unless its beacon is known here already and does not draw it."""
    commitment, promise = result.commitment, receipt.beacon
    if promise is None or commitment is None:
        return
    header = decode_header(header_bytes(commitment))
    epoch = book.docket.epoch
    if promise.source is BeaconSource.EPOCH and epoch is not None:
        assert epoch.number == promise.round
        if not is_drawn(bytes.fromhex(epoch.secret), commitment.root, task.task_id, promise.rate_micros):
            return
    case = Case(
        case_id="c-" + receipt.receipt_id.removeprefix("r-"),
        task_id=receipt.task_id,
        node_id=receipt.node_id,
        key=LeaseKey(task_id=receipt.task_id, attempt=receipt.attempt, fence=receipt.fence),
        idem_key=receipt.idem_key,
        root=commitment.root,
        leaves=commitment.leaves,
        model_digest=task.model_digest,
        promise=promise,
        whole=_opening_bytes(header, commitment.leaves) <= book.rules.proofs.whole_bytes,
        work=work_of(header),
    )
    cases.add(book, case)


def arrived(book: Book, when: Instant, beacon: Beacon) -> None:
    """A promised round is known: challenge what it draws, forget the rest."""
    for case_id in tuple(book.docket.waiting.get((beacon.source, beacon.round), ())):
        case = book.docket.cases[case_id]
        if is_drawn(bytes.fromhex(beacon.value), case.root, case.task_id, case.promise.rate_micros):
            cases.challenge(book, when, case, beacon=beacon)
        else:
            cases.drop(book, case)


def paid_micros(book: Book, node_id: str, price_micros: int, kind: TaskKind, commitment: Commitment | None) -> int:
    """What a node's result at this price earns: less where nobody could check it if it were drawn."""
    rules = book.rules.proofs
    if not rules.rate_micros or kind not in CHALLENGED_KINDS or commitment is None:
        return price_micros
    if _checkable(book, node_id, commitment):
        return price_micros
    return price_micros * rules.unverifiable_micros // MILLION


def billed(book: Book, node_id: str, usage: Usage, given: TaskInput, commitment: Commitment | None) -> Usage:
    """The tokens that are paid. Of a prompt that nobody can count again no more than the text is likely to make."""
    if commitment is None or isinstance(given, VerifyInput) or _checkable(book, node_id, commitment):
        return usage
    most = len(encode(given)) // BYTES_A_TOKEN + TEMPLATE_TOKENS
    return msgspec.structs.replace(usage, prompt_tokens=min(usage.prompt_tokens, most))


def _checkable(book: Book, node_id: str, commitment: Commitment) -> bool:
    """Whether somebody can repeat it, unless all that is known of such work of the node's is that nobody could."""
    header = decode_header(header_bytes(commitment))
    return repeatable(header) and work_of(header) not in standing_of(book, node_id).unchecked


def _opening_bytes(header: Header, leaves: int) -> int:
    """All leaves as an opening, by what the node says of them: they cannot have more candidates than were asked for."""
    return header.completion_tokens * (8 * header.n_probs + 6) + 64 * leaves


def _begun(book: Book, when: Instant, epoch: Epoch) -> Epoch:
    if not epoch.begins_at:
        ends_at = when.at + max(int(book.rules.proofs.epoch_s), 1)
        epoch = msgspec.structs.replace(epoch, begins_at=when.at, ends_at=ends_at)
        book.docket.epoch, book.docket.last_epoch = epoch, epoch.number
        book.write(SaveEpoch(epoch=epoch))
    return epoch
