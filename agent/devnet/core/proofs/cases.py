"""How a case moves: from a result that was drawn to one judgement. `move` and `keep` are the only ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from agent.core.proof.drawing import leaves_until
from agent.core.wire import Challenge, ChallengeKind
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Discard, DropCase, PushTo, SaveCase
from agent.devnet.core.proofs.docket import challenged, exhibits
from agent.devnet.core.proofs.records import Case, CaseState
from agent.devnet.core.rules import Instant

_S = CaseState
MOVES: Final[dict[CaseState, frozenset[CaseState]]] = {
    _S.WAITING: frozenset({_S.CHALLENGED, _S.JUDGED}),
    _S.CHALLENGED: frozenset({_S.CHECKING, _S.JUDGED}),
    _S.CHECKING: frozenset({_S.REVEALING, _S.CHALLENGED, _S.JUDGED}),
    _S.REVEALING: frozenset({_S.CHECKING, _S.CHALLENGED, _S.JUDGED}),
    _S.JUDGED: frozenset(),
}
"""Where a case may go. REVEALING → CHECKING is a closer look; → CHALLENGED one at leaves that are not here yet.
One that WAITs for a beacon may also be dropped, or is judged void when the beacon never comes."""

MAX_OPENING_BYTES = 32 << 20
"""Read, it takes sixteen times as much memory; as base64 in the evidence it still fits into a blob."""
TRANSCRIPTS_S = 82_800
"""So long after a result a node may be asked for its transcript: it keeps that for a day, where its owner chose nothing
else, and an hour of that is for the answer. Later nobody is blamed who has it no more."""
MAX_CHALLENGES = 16
"""In the answer to one beat; the others come with the next."""


def add(book: Book, case: Case) -> None:
    """A new case."""
    book.docket.put(case)
    book.write(SaveCase(case=case))


def move(book: Book, when: Instant, case: Case, state: CaseState, **changes: Any) -> Case:
    """The case in another state, with `changes` of its fields; whoever owes something by that is told."""
    if state not in MOVES[case.state]:
        raise AssertionError(f"case {case.case_id} cannot go {case.state} → {state}: {case}")
    return _put(book, when, case, msgspec.structs.replace(case, state=state, **changes))


def keep(book: Book, when: Instant, case: Case, **changes: Any) -> Case:
    """The case as it is now, in the state that it was in."""
    return _put(book, when, case, msgspec.structs.replace(case, **changes))


def challenge(book: Book, when: Instant, case: Case, **changes: Any) -> None:
    """Ask the node for its leaves; `changes` says at which level."""
    answer_s = book.rules.proofs.answer_s
    book.docket.due[case.case_id] = when.now + answer_s
    case = move(book, when, case, CaseState.CHALLENGED, due_at=when.at + int(answer_s), **changes)
    book.docket.alarms.set(when.now + answer_s, case.case_id, case.level)


def drop(book: Book, case: Case) -> None:
    """Its beacon did not draw it."""
    book.docket.drop(case)
    book.write(DropCase(case_id=case.case_id))


def forget(book: Book, when: Instant, case: Case) -> None:
    """A judged case leaves; who saw it may not see its relative."""
    book.docket.drop(case)
    for relative in relatives(book, case.task_id):
        if relative.state is not CaseState.JUDGED:
            keep(book, when, relative, seen_by=tuple(sorted({*relative.seen_by, *saw(case)})))


def relatives(book: Book, task_id: str) -> Iterator[Case]:
    """A claim and the canary that was made of it: whoever saw both would know."""
    for index in (book.docket.of_task, book.docket.canary_of):
        if case_id := index.get(task_id):
            yield book.docket.cases[case_id]


def saw(case: Case) -> Iterator[str]:
    """Who made the claim, and who checked it."""
    yield case.node_id
    yield from (check.node_id for check in case.checks if check.node_id)


def challenges_for(book: Book, when: Instant, node_id: str) -> tuple[Challenge, ...]:
    """What a beat's answer asks a node to open: the oldest first, and not all at once."""
    owed = list(book.docket.owed(node_id))[:MAX_CHALLENGES]
    return tuple(_challenge(book, when, name, case) for name, case in owed)


def _put(book: Book, when: Instant, before: Case, after: Case) -> Case:
    book.docket.put(after)
    book.write(SaveCase(case=after))
    if gone := {it.sha256 for it in exhibits(before)} - {it.sha256 for it in exhibits(after)}:
        book.tell(Discard(sha256s=tuple(sorted(gone))))
    if after.state is CaseState.JUDGED and after.case_id not in book.docket.copied:
        forget(book, when, after)
    known = challenged(before)
    for name, node_id in challenged(after).items():
        if name not in known:
            book.tell(PushTo(node_id=node_id, push=_challenge(book, when, name, after)))
    return after


def _challenge(book: Book, when: Instant, name: str, case: Case) -> Challenge:
    answer_s = max(book.docket.due[case.case_id] - when.now, 0.0)
    if case.state is CaseState.CHALLENGED:
        return Challenge(
            challenge_id=name,
            key=case.key,
            kind=ChallengeKind.DRAWN,
            answer_s=answer_s,
            leaves=asked_leaves(case),
            beacon=case.beacon,
            level=case.level,
        )
    check = next(it for it in case.checks if it.task_id == name)
    assert check.key is not None
    return Challenge(challenge_id=name, key=check.key, kind=ChallengeKind.REVEAL, answer_s=answer_s)


def asked_leaves(case: Case) -> tuple[int, ...]:
    """The leaves that the node is to show, at the level of now; none means all."""
    return () if case.whole else leaves_at(case, case.level)


def leaves_at(case: Case, level: int) -> tuple[int, ...]:
    """The leaves that are repeated at a level."""
    assert case.beacon is not None
    beacon = bytes.fromhex(case.beacon.value)
    return leaves_until(beacon, case.root, case.task_id, case.leaves, case.promise.leaves, level)
