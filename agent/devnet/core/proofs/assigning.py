"""Who may check what: never its own work, never twice the same claim, and nobody who was found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from agent.core.fingerprint import Pool
from agent.core.model import Outcome, TaskKind
from agent.devnet.core.book import Book
from agent.devnet.core.proofs.cases import relatives, saw
from agent.devnet.core.proofs.records import Case, Check
from agent.devnet.core.proofs.standing import has_stake, may_validate, standing_of
from agent.devnet.core.proofs.verdicts import EXACT_CLASS
from agent.devnet.core.records import Node, Task, TaskState
from agent.devnet.core.rules import Instant

TRIES = 2
"""Attempts at checks of one case that may fail, or fall silent, before their node gets none of it any more."""
_CAME_TO_NOTHING = frozenset({Outcome.FAILED, Outcome.EXPIRED})
HEAD_START_S = 30.0
"""So long one validator's place of a case is kept for nodes that can repeat the claim to the bit."""


def may_check(
    book: Book, when: Instant, node: Node, pool: Pool | None, task: Task, beside: Iterable[Task] = ()
) -> bool:
    """Whether this node's pool may have a `verify` task; `beside`: what it gets in the same reply. True of others."""
    if task.demand.spec.kind is not TaskKind.VERIFY:
        return True
    case = book.docket.cases.get(book.docket.of_check.get(task.task_id, ""))
    if case is None or pool is None or not may_validate(standing_of(book, node.record.node_id), when.at):
        return False
    if book.tasks[case.task_id].demand.spec.kind not in pool.kinds:
        return False
    taken = {book.docket.of_check.get(other.task_id) for other in beside}
    for relative in relatives(book, case.task_id):
        if relative.case_id in taken or node.record.node_id in _involved(book, relative, task.task_id):
            return False
    return _is_exact(pool, case) or not _kept_back(book, when, case, task)


def _involved(book: Book, case: Case, but: str) -> Iterator[str]:
    """Who made the claim, and who checked it or does so now, or saw its relative; `but` for one task."""
    yield from saw(case)
    yield from case.seen_by
    yield from _gave_up(book, case)
    for check in case.checks:
        if check.task_id != but and (holder := _holder(book, check)):
            yield holder


def _gave_up(book: Book, case: Case) -> Iterator[str]:
    """Who took checks of this case and came to nothing, twice: nobody else's turn may be used up by that."""
    stories = (book.tasks[check.task_id].progress.story for check in case.checks)
    tried = Counter(episode.node_id for story in stories for episode in story if episode.outcome in _CAME_TO_NOTHING)
    return (node_id for node_id, times in tried.items() if times >= TRIES)


def _holder(book: Book, check: Check) -> str:
    progress = book.tasks[check.task_id].progress
    return progress.lease.node_id if progress.lease and progress.state is TaskState.LEASED else ""


def _is_exact(pool: Pool, case: Case) -> bool:
    return pool.determinism == case.determinism and pool.slots == 1


def _kept_back(book: Book, when: Instant, case: Case, task: Task) -> bool:
    """The first place at each level, while somebody may come who repeats to the bit."""
    if not case.determinism.startswith(EXACT_CLASS) or when.at - task.demand.submitted_at >= HEAD_START_S:
        return False
    first = next(check for check in case.checks if check.level == case.level)
    if first.task_id != task.task_id:
        return False
    return any(_is_exact(pool, case) for _, pool in _could_come(book, when, case, task.task_id))


def available(book: Book, when: Instant, case: Case) -> int:
    """How many nodes are there that could check it, and have not."""
    return len({node_id for node_id, _ in _could_come(book, when, case)})


def _could_come(book: Book, when: Instant, case: Case, but: str = "") -> Iterator[tuple[str, Pool]]:
    """Nodes that are there, and their ready pools; `but`: for this task."""
    kind, patience_s = book.tasks[case.task_id].demand.spec.kind, max(book.rules.proofs.verify_s, book.rules.lease_s)
    involved = {node_id for relative in relatives(book, case.task_id) for node_id in _involved(book, relative, but)}
    for node in book.nodes.values():
        node_id = node.record.node_id
        is_here = node.heard is not None and when.now - node.heard <= patience_s
        if not is_here or node_id in involved or not has_stake(book, node_id):
            continue
        if not may_validate(standing_of(book, node_id), when.at):
            continue
        for pool in node.pools.values():
            if pool.ready and pool.model_digest == case.model_digest and {kind, TaskKind.VERIFY} <= set(pool.kinds):
                yield node_id, pool
