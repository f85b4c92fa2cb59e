"""Time passed: epochs that are over, openings that did not come, exhibits that nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.core.payloads import Beacon, BeaconSource, Judgement
from agent.core.proof.drand import QUICKNET
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, Discard, SaveCase
from agent.devnet.core.granting import conclude
from agent.devnet.core.proofs import epochs, opening, validating
from agent.devnet.core.proofs.cases import TRANSCRIPTS_S
from agent.devnet.core.proofs.docket import not_needed
from agent.devnet.core.proofs.judging import judge
from agent.devnet.core.proofs.records import Case
from agent.devnet.core.rules import Instant


def sweep(book: Book, when: Instant, chance: str) -> Decision[None]:
    """Look at the time. `chance` is 32 fresh random bytes, hex: the next secret, if one is needed."""
    for case in _hopeless(book, when):
        judge(book, when, case, Judgement.VOID, "the promised beacon did not come while transcripts are kept")
    epochs.turn(book, when, chance)
    for alarm in book.docket.alarms.ringing(when.now):
        opening.overdue(book, when, alarm.task_id, alarm.fence)
        validating.overdue(book, when, alarm.task_id, alarm.fence)
    return conclude(book, when, None)


def beacon(book: Book, when: Instant, told: Beacon) -> Decision[None]:
    """A round of drand is known; whoever asked for it has checked its signature."""
    epochs.shown(book, when, told.round)
    epochs.arrived(book, when, told)
    return conclude(book, when, None)


def _hopeless(book: Book, when: Instant) -> list[Case]:
    """Cases that have waited for a beacon too long: no relay gave it, or this coordinator was away."""
    docket, epoch = book.docket, book.docket.epoch
    at = epochs.drand_at(book, when)
    late = [(BeaconSource.DRAND, it) for it in epochs.awaited(book, when) if QUICKNET.time_of(it) + TRANSCRIPTS_S <= at]
    if epoch is not None and epoch.begins_at and epoch.ends_at + TRANSCRIPTS_S <= when.at:
        late.append((BeaconSource.EPOCH, epoch.number))
    return [docket.cases[case_id] for it in late for case_id in docket.waiting.get(it, ())]


def discard(book: Book, when: Instant, judged: Iterable[Case]) -> Decision[None]:
    """Cases that were judged `keep_s` ago: what is not needed of their exhibits goes."""
    for case in judged:
        gone = not_needed(case)
        kept = msgspec.structs.replace(case, evidence=None, opening=None if case.opening in gone else case.opening)
        book.write(SaveCase(case=kept))
        book.tell(Discard(sha256s=tuple(it.sha256 for it in gone)))
    return conclude(book, when, None)
