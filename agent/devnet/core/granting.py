"""Who may take which task: what a node advertised, what it holds already, and who waits longest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from agent.core.fingerprint import Pool
from agent.core.model import ExecInput, Signed
from agent.core.proof.signed import seal
from agent.core.wire import Credit, OfferBody, Offers, Role, encode
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, Granted
from agent.devnet.core.records import Lease, Node, Task, TaskState
from agent.devnet.core.rules import LEASES_PER_SLOT, MAX_LEASES, MAX_OFFERS_BYTES, Instant
from agent.devnet.core.waiting import ParkedPull

R = TypeVar("R")


def conclude(book: Book, when: Instant, reply: R) -> Decision[R]:
    """Close an event after which somebody may be served.

    Before the event nobody waited for a task that he could have. So only what it changed is looked at: tasks that are
    free now, for the pull that waits longest, and nodes that may take more now.
    """
    for task in sorted(map(book.tasks.__getitem__, book.freed), key=lambda task: task.demand.number):
        if task.progress.state is TaskState.QUEUED and (taker := _taker(book, when, task)):
            _serve(book, when, taker)
    book.freed.clear()
    for node_id in sorted(book.stirred):
        for parked in book.waiting.of(node_id):
            _serve(book, when, parked)
    book.stirred.clear()
    return book.decide(reply)


def grant(book: Book, when: Instant, node: Node, credits: tuple[Credit, ...], since: float) -> tuple[Signed, ...]:
    """Lease what fits: never more than asked or than the node has room for, the oldest task first over all credits,
    never more than a reply holds.

    `since` is when the node asked: it counts what an offer says from then.
    """
    left = [credit.count for credit in credits]
    room = MAX_OFFERS_BYTES
    offers: list[Signed] = []
    while (found := _oldest(book, when, node, credits, left)) and found[0].bytes <= room:
        task, index = found
        left[index] -= 1
        room -= task.bytes
        offers.append(_lease(book, when, since, task, node.record.node_id, credits[index].pool))
    return tuple(offers)


def _serve(book: Book, when: Instant, parked: ParkedPull) -> None:
    if offers := grant(book, when, book.node(parked.node_id), parked.credits, parked.since):
        book.waiting.remove(parked.pull_id)
        book.tell(Granted(pull_id=parked.pull_id, offers=Offers(offers=offers)))


def _taker(book: Book, when: Instant, task: Task) -> ParkedPull | None:
    """The pull that waits longest of those that can have the task."""
    for parked in book.waiting.line(task.model_digest):
        node = book.node(parked.node_id)
        if not _avoids(task, node, when) and any(_can(node, credit, task) for credit in parked.credits):
            return parked
    return None


def _oldest(
    book: Book, when: Instant, node: Node, credits: tuple[Credit, ...], left: list[int]
) -> tuple[Task, int] | None:
    best: tuple[Task, int] | None = None
    for index, credit in enumerate(credits):
        if left[index] <= 0:
            continue
        for task in _first_of_each_kind(book, when, node, credit):
            if best is None or task.demand.number < best[0].demand.number:
                best = task, index
    return best


def _first_of_each_kind(book: Book, when: Instant, node: Node, credit: Credit) -> Iterator[Task]:
    pool = _pool_for(node, credit)
    for kind in dict.fromkeys(pool.kinds if pool else ()):
        tasks = (book.tasks[task_id] for _, task_id in book.queue.line((credit.model_digest, kind)))
        task = next((task for task in tasks if not _avoids(task, node, when) and _trusts(pool, task)), None)
        if task is not None:
            yield task


def _can(node: Node, credit: Credit, task: Task) -> bool:
    pool = _pool_for(node, credit)
    return (
        pool is not None and task.line[0] == credit.model_digest and task.line[1] in pool.kinds and _trusts(pool, task)
    )


def _trusts(pool: Pool | None, task: Task) -> bool:
    """Whether the node's owner runs programs of this publisher; of other tasks nobody asks."""
    asked = task.demand.spec.input
    return not isinstance(asked, ExecInput) or (pool is not None and asked.bundle.publisher in pool.publishers)


def _pool_for(node: Node, credit: Credit) -> Pool | None:
    """The pool that the credit names, if it was advertised with this model and has room. One that was not yet waits for
    the beat that tells of it: what nobody advertised has no bound."""
    pool = node.pools.get(credit.pool)
    if pool is None or pool.model_digest != credit.model_digest or len(node.leases) >= MAX_LEASES:
        return None
    return pool if node.busy[credit.pool] < pool.slots * LEASES_PER_SLOT else None


def _avoids(task: Task, node: Node, when: Instant) -> bool:
    return task.avoid.get(node.record.node_id, when.now) > when.now


def _lease(book: Book, when: Instant, since: float, task: Task, node_id: str, pool: str) -> Signed:
    book.fence += 1
    attempt = task.progress.attempt + 1
    body = OfferBody(
        node_id=node_id,
        task=task.demand.spec,
        attempt=attempt,
        fence=book.fence,
        lease_ms=ms(book.rules.lease_s),
        deadline_ms=max(ms(task.due - since), 1),
        idem_key=f"{task.task_id}/{attempt}",
        nonce=task.demand.nonce,
    )
    offer = seal(Role.OFFER, encode(body), book.key, book.sign)
    lease = Lease(key=body.key, node_id=node_id, pool=pool, idem_key=body.idem_key, offer=offer)
    book.move(task, msgspec.structs.replace(task.progress, state=TaskState.LEASED, attempt=attempt, lease=lease))
    task.started = False
    task.expires = when.now + min(book.rules.unstarted_s, book.rules.lease_s)
    book.alarms.set(task.expires, task.task_id, book.fence)
    return offer


def ms(seconds: float) -> int:
    """Whole milliseconds, rounded down."""
    return int(seconds * 1000)
