"""The book after a restart."""

from __future__ import annotations

import msgspec

from agent.core.model import Value
from agent.core.payloads import Judgement
from agent.core.wire import ReceiptBody
from agent.devnet.core.asking import live
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Examine
from agent.devnet.core.proofs.cases import TRANSCRIPTS_S
from agent.devnet.core.proofs.judging import judge
from agent.devnet.core.proofs.records import Case, CaseState, Epoch, Judged, Standing
from agent.devnet.core.queue import DEADLINE
from agent.devnet.core.records import ENDED, Demand, Node, NodeRecord, Progress, TaskState, UsedToken
from agent.devnet.core.rules import Instant

COME_BACK_S = 120.0
"""A node could not open anything while the coordinator was away: so long it has at least, if it ever had. Nor has it
longer than anybody: a clock that was set back meanwhile keeps no case open."""
_AWAY = "the coordinator was away for longer than transcripts are kept"


class Remembered(Value):
    """What the store kept. `demands` and `progress` have the same task ids."""

    fence: int = 0
    demands: tuple[Demand, ...] = ()
    progress: dict[str, Progress] = msgspec.field(default_factory=dict)
    receipts: tuple[ReceiptBody, ...] = ()
    nodes: tuple[NodeRecord, ...] = ()
    tokens: tuple[UsedToken, ...] = ()
    epoch: Epoch | None = None
    """The latest that was promised."""
    cases: tuple[Case, ...] = ()
    """Open ones, in the order in which they appeared."""
    standings: tuple[Standing, ...] = ()
    judged: tuple[Judged, ...] = ()
    """By node, each node's in the order of their serials."""


def restore(book: Book, when: Instant, remembered: Remembered) -> None:
    """Fill an empty book.

    Live leases get their full time again, so that work that goes on is not thrown away. Deadlines do not: a task could
    outlive its own by restarts alone.
    """
    book.fence = remembered.fence
    book.nodes.update((record.node_id, Node(record)) for record in remembered.nodes)
    book.tokens.update((token.sha256, token) for token in remembered.tokens)
    for demand in remembered.demands:
        _restore_task(book, when, demand, remembered.progress[demand.spec.task_id])
    for receipt in remembered.receipts:
        book.tasks[receipt.task_id].receipts[receipt.idem_key] = receipt
    _restore_docket(book, when, remembered)


def _restore_task(book: Book, when: Instant, demand: Demand, progress: Progress) -> None:
    task = live(demand, progress, when)
    book.add(task)
    if progress.state not in ENDED:
        book.alarms.set(task.due, task.task_id, DEADLINE)
    if progress.state is TaskState.LEASED and progress.lease:
        task.started, task.since = True, when.now
        task.expires = when.now + book.rules.lease_s
        book.alarms.set(task.expires, task.task_id, progress.lease.key.fence)


def _restore_docket(book: Book, when: Instant, remembered: Remembered) -> None:
    docket = book.docket
    epoch = remembered.epoch
    if epoch is not None:
        # What was told decides nothing any more; the sweep that has the next secret makes the next epoch.
        docket.epoch, docket.last_epoch = (None if epoch.told else epoch), epoch.number
    docket.standings.update((standing.node_id, standing) for standing in remembered.standings)
    for judged in remembered.judged:
        docket.judged.setdefault(judged.node_id, []).append(judged.signed)
    for case in remembered.cases:
        docket.put(_restored(book, when, case))
    since_s = max(TRANSCRIPTS_S - book.rules.proofs.answer_s, 0)
    for case in remembered.cases:
        if case.state is CaseState.CHALLENGED and case.due_at + since_s <= when.at:
            judge(book, when, docket.cases[case.case_id], Judgement.VOID, _AWAY)  # told with the first decision
    for case in docket.cases.values():
        if case.state in (CaseState.CHECKING, CaseState.REVEALING):
            docket.alarms.set(when.now + min(COME_BACK_S, book.rules.proofs.verify_s), case.case_id, case.level)
    for case_id in docket.unexamined():
        book.tell(Examine(case_id=case_id))  # it leaves with the first decision


def _restored(book: Book, when: Instant, case: Case) -> Case:
    rules = book.rules.proofs
    if case.state is CaseState.REVEALING:
        due_at = max(it.due_at for it in case.checks)
        left_s = _left_s(book, when, case, due_at, rules.verify_s)
        checks = (msgspec.structs.replace(it, due_at=when.at + int(left_s)) for it in case.checks)
        return msgspec.structs.replace(case, checks=tuple(checks))
    if case.state is not CaseState.CHALLENGED:
        return case
    left_s = _left_s(book, when, case, case.due_at, rules.answer_s)
    book.docket.alarms.set(when.now + left_s, case.case_id, case.level)
    return msgspec.structs.replace(case, due_at=when.at + int(left_s))


def _left_s(book: Book, when: Instant, case: Case, due_at: int, most_s: float) -> float:
    """How long a challenge stays open after the restart."""
    left_s = min(max(due_at - when.at, min(COME_BACK_S, most_s)), most_s)
    book.docket.due[case.case_id] = when.now + left_s
    return left_s
