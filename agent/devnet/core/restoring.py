"""The book after a restart."""

from __future__ import annotations

import msgspec

from agent.core.model import Value
from agent.core.wire import ReceiptBody
from agent.devnet.core.asking import live
from agent.devnet.core.book import Book
from agent.devnet.core.queue import DEADLINE
from agent.devnet.core.records import ENDED, Demand, Node, NodeRecord, Progress, TaskState, UsedToken
from agent.devnet.core.rules import Instant


class Remembered(Value):
    """What the store kept. `demands` and `progress` have the same task ids."""

    fence: int = 0
    demands: tuple[Demand, ...] = ()
    progress: dict[str, Progress] = msgspec.field(default_factory=dict)
    receipts: tuple[ReceiptBody, ...] = ()
    nodes: tuple[NodeRecord, ...] = ()
    tokens: tuple[UsedToken, ...] = ()


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


def _restore_task(book: Book, when: Instant, demand: Demand, progress: Progress) -> None:
    task = live(demand, progress, when)
    book.add(task)
    if progress.state not in ENDED:
        book.alarms.set(task.due, task.task_id, DEADLINE)
    if progress.state is TaskState.LEASED and progress.lease:
        task.started = True
        task.expires = when.now + book.rules.lease_s
        book.alarms.set(task.expires, task.task_id, progress.lease.key.fence)
