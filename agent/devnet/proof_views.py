"""What requesters see of challenges: where each is, in words, and the nodes' records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import chain, islice
from typing import Final

from agent.core.model import Value
from agent.core.payloads import BeaconPromise, Judgement
from agent.core.text import counted, plain
from agent.devnet.core.book import Book
from agent.devnet.core.proofs.records import Case, CaseState, CheckState, Standing
from agent.devnet.core.proofs.revealing import MAX_REASON_CHARS
from agent.devnet.core.proofs.standing import standing_of


class Stage(StrEnum):
    """Where the proof of one result is. Before its beacon is known nobody is told what is drawn."""

    PROMISED = "promised"
    NOT_DRAWN = "not_drawn"
    CHALLENGED = "challenged"
    CHECKING = "checking"
    REVEALING = "revealing"
    JUDGED = "judged"


class TaskProof(Value):
    """`proof` of a task."""

    stage: Stage
    says: str
    """In plain words."""
    judgement: Judgement | None = None
    case_id: str = ""
    rate_micros: int = 0
    """With which probability it was or will be drawn, in millionths."""


class VerdictView(Value):
    """What one validator said."""

    node_id: str
    level: int
    verdict: str
    certain: bool
    exact: bool
    """It repeated to the bit."""
    reasons: tuple[str, ...]


class CaseView(Value):
    """One line of `GET /v1/proofs`."""

    case_id: str
    task_id: str
    node_id: str
    stage: Stage
    says: str
    """In plain words."""
    model_digest: str
    level: int
    """How often more was looked at."""
    validators: tuple[str, ...]
    """Who checks or checked it."""
    revealed: int
    """Verdicts that are known."""
    verdicts: tuple[VerdictView, ...]
    """These, once the case is judged: until then somebody may still be asked."""
    judgement: Judgement | None
    detail: str
    due_at: int
    """Unix seconds by which the node must open."""
    judged_at: int
    canary: bool
    """Made up by the coordinator, and wrong: who passes it did not look."""


class Proofs(Value):
    """`GET /v1/proofs`."""

    cases: tuple[CaseView, ...]
    """Open ones, then judged ones, each newest first; those whose beacon is not known yet are left out."""
    standings: tuple[Standing, ...]
    rate_micros: int
    """With which probability results of nodes in good standing are challenged."""


_STAGES: Final = {
    CaseState.CHALLENGED: Stage.CHALLENGED,
    CaseState.CHECKING: Stage.CHECKING,
    CaseState.REVEALING: Stage.REVEALING,
    CaseState.JUDGED: Stage.JUDGED,
}
_VERDICTS: Final = {
    Judgement.PASSED: "passed",
    Judgement.SUSPECT: "suspect: not what an honest node shows, and no proof",
    Judgement.FAILED: "failed: the node was slashed",
    Judgement.UNOPENED: "not opened: the node was slashed",
    Judgement.VOID: "could not be decided; nobody is blamed",
}


def proofs(book: Book, open_: Sequence[Case], judged: Sequence[Case], most: int) -> Proofs:
    """Of the cases `most`. `open_`: all of them, oldest first; `judged`: the latest, newest first. One that was judged
    just now may be in both."""
    ended = {case.case_id for case in judged}
    told = chain((it for it in reversed(open_) if _is_told(it) and it.case_id not in ended), judged)
    return Proofs(
        cases=tuple(map(case_view, islice(told, most))),
        standings=tuple(standing_of(book, node_id) for node_id in book.nodes),
        rate_micros=book.rules.proofs.rate_micros,
    )


def _is_told(case: Case) -> bool:
    """Of those in memory. Nobody may know of a canary before its validators have spoken."""
    return case.state not in (CaseState.WAITING, CaseState.JUDGED) and not case.canary


def task_proof(book: Book, promise: BeaconPromise | None, case: Case | None) -> TaskProof | None:
    """Where the proof of a result is; None when none was promised. `case`: the result's, if there is one."""
    if promise is None:
        return None
    if case is None or case.state is CaseState.WAITING:
        return _undecided(book, promise)
    view = case_view(case)
    return TaskProof(
        stage=view.stage,
        says=view.says,
        judgement=case.judgement,
        case_id=case.case_id,
        rate_micros=promise.rate_micros,
    )


def case_view(case: Case) -> CaseView:
    """Of a case whose beacon is known."""
    return CaseView(
        case_id=case.case_id,
        task_id=case.task_id,
        node_id=case.node_id,
        stage=_STAGES[case.state],
        says=_says(case),
        model_digest=case.model_digest,
        level=case.level,
        validators=tuple(check.node_id for check in case.checks if check.node_id),
        revealed=_revealed(case),
        verdicts=tuple(_verdicts(case)) if case.state is CaseState.JUDGED else (),
        judgement=case.judgement,
        detail=case.detail,
        due_at=case.due_at,
        judged_at=case.judged_at,
        canary=case.canary,
    )


def _verdicts(case: Case) -> Iterator[VerdictView]:
    for check in case.checks:
        if (said := check.verdict) is not None:
            yield VerdictView(
                node_id=check.node_id,
                level=check.level,
                verdict=said.verdict,
                certain=said.certain,
                exact=said.exact,
                reasons=tuple(plain(reason, MAX_REASON_CHARS) for reason in said.reasons),
            )


def _undecided(book: Book, promise: BeaconPromise) -> TaskProof:
    """Whether it was drawn is not told, or it was not. The two must look alike before the beacon is known."""
    percent = f"{promise.rate_micros / 10_000:g} %"
    if book.docket.is_open(promise):
        says = f"challenged with a probability of {percent}; by {promise.source} round {promise.round}, not known yet"
        return TaskProof(stage=Stage.PROMISED, says=says, rate_micros=promise.rate_micros)
    says = f"not drawn, with a probability of {percent}, by {promise.source} round {promise.round}"
    return TaskProof(stage=Stage.NOT_DRAWN, says=says, rate_micros=promise.rate_micros)


def _says(case: Case) -> str:
    match case.state:
        case CaseState.CHALLENGED:
            return "drawn: the node was asked to open its transcript"
        case CaseState.CHECKING if not case.checks:
            return "opened: the leaves are looked at"
        case CaseState.CHECKING:
            return f"opened: what was drawn is repeated by {counted(len(case.checks), 'validator')}"
        case CaseState.REVEALING:
            return f"checked: {_revealed(case)} of {counted(len(case.checks), 'verdict')} told"
        case _:
            assert case.judgement is not None
            return f"{_VERDICTS[case.judgement]} ({case.detail})" if case.detail else _VERDICTS[case.judgement]


def _revealed(case: Case) -> int:
    return sum(check.state is CheckState.REVEALED for check in case.checks)
