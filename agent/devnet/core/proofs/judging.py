"""Judgements: signed, numbered, and paid for."""

from __future__ import annotations

import msgspec

from agent.core.model import LeaseKey, Usage
from agent.core.payloads import Judgement, JudgementBody, Role, Subject
from agent.core.proof.signed import seal
from agent.core.text import plain
from agent.core.wire import encode
from agent.devnet.core.book import Book
from agent.devnet.core.effects import SaveJudged, SaveLedgerLine
from agent.devnet.core.proofs import cases
from agent.devnet.core.proofs.docket import SLASHING
from agent.devnet.core.proofs.records import Case, CaseState, Judged, Standing
from agent.devnet.core.proofs.standing import after_answer, keep_standing, may_validate, slashed, standing_of, weighed
from agent.devnet.core.records import LedgerKind, LedgerLine
from agent.devnet.core.rules import Instant

MAX_DETAIL = 1000
MAX_JUDGED = 16
"""In the answer to one beat; the others come with the next."""


def judge(
    book: Book,
    when: Instant,
    case: Case,
    judgement: Judgement,
    detail: str,
    validators: int = 0,
    *,
    shown: bool = True,
) -> Case:
    """End a case: the node's record, what it is slashed, and the signed judgement. Of a canary nobody is judged.

    `validators` is how many verdicts agreed on it; `shown`: see `after_answer`.
    """
    if case.canary:
        return _close(book, when, case, judgement, detail, 0)
    before = standing_of(book, case.node_id)
    weight = weighed(before, judgement, book.rules.proofs)
    if weight is not judgement:
        detail = f"{detail}; suspicion number {before.suspected + 1}"
    standing = after_answer(before, weight, book.rules.proofs, shown=shown)
    body = JudgementBody(
        serial=0,
        node_id=case.node_id,
        subject=Subject.ANSWER,
        task_id=case.task_id,
        attempt=case.key.attempt,
        fence=case.key.fence,
        judgement=weight,
        detail=plain(detail, MAX_DETAIL),
        validators=validators,
    )
    slash_micros = book.rules.proofs.slash_micros if weight in SLASHING else 0
    serial = pronounce(book, when, standing, body, slash_micros, case.case_id)
    return _close(book, when, case, weight, body.detail, serial)


def judge_verdict(
    book: Book,
    when: Instant,
    standing: Standing,
    key: LeaseKey,
    judgement: Judgement,
    detail: str,
    *,
    slash_micros: int = 0,
    reward_micros: int = 0,
) -> int:
    """Hold something against a validator, or in its favour. `standing` is its record with this counted; returns the
    judgement's serial."""
    body = JudgementBody(
        serial=0,
        node_id=standing.node_id,
        subject=Subject.VERDICT,
        task_id=key.task_id,
        attempt=key.attempt,
        fence=key.fence,
        judgement=judgement,
        detail=plain(detail, MAX_DETAIL),
        earned_micros=reward_micros,
        currency=book.rules.currency if reward_micros else "",
    )
    return pronounce(book, when, standing, body, slash_micros, key.task_id)


def pronounce(book: Book, when: Instant, standing: Standing, body: JudgementBody, slash_micros: int, about: str) -> int:
    """Number, sign and write a judgement, take or pay what it says, and return its serial. `about` names its ledger
    line."""
    standing, taken = slashed(standing, slash_micros)
    standing = msgspec.structs.replace(standing, serial=standing.serial + 1)
    keep_standing(book, standing)
    body = msgspec.structs.replace(
        body,
        serial=standing.serial,
        slashed_micros=taken,
        stake_micros=standing.stake_micros,
        barred=not may_validate(standing, when.at),
        judged_at=when.at,
    )
    signed = seal(Role.JUDGEMENT, encode(body), book.key, book.sign)
    book.docket.judged.setdefault(body.node_id, []).append(signed)
    book.write(SaveJudged(judged=Judged(node_id=body.node_id, serial=body.serial, signed=signed)))
    if taken:
        name = f"slash/{body.node_id}/{body.serial}"
        _enter(book, body, about, LedgerKind.SLASHED, -taken, name, body.detail)
    if body.earned_micros:
        _enter(book, body, about, LedgerKind.VERDICT, body.earned_micros, f"verdict/{body.task_id}")
    return body.serial


def judged_since(book: Book, node_id: str, serial: int) -> tuple[Judged, ...]:
    """A node's judgements after the one with this serial, oldest first; not all at once."""
    known = book.docket.judged.get(node_id, [])[serial : serial + MAX_JUDGED]
    return tuple(
        Judged(node_id=node_id, serial=number, signed=signed) for number, signed in enumerate(known, serial + 1)
    )


def _close(book: Book, when: Instant, case: Case, judgement: Judgement, detail: str, serial: int) -> Case:
    return cases.move(
        book,
        when,
        case,
        CaseState.JUDGED,
        judgement=judgement,
        detail=detail,
        serial=serial,
        judged_at=when.at,
    )


def _enter(
    book: Book, body: JudgementBody, about: str, kind: LedgerKind, amount_micros: int, name: str, detail: str = ""
) -> None:
    line = LedgerLine(
        receipt_id=about,
        node_id=body.node_id,
        task_id=body.task_id,
        idem_key=name,
        usage=Usage(),
        amount_micros=amount_micros,
        currency=book.rules.currency,
        at=body.judged_at,
        kind=kind,
        detail=detail,
    )
    book.write(SaveLedgerLine(line=line))
