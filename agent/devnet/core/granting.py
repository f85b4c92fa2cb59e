"""Who may take which task: what a node advertised, what it holds already, and who waits longest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from agent.core.fingerprint import Pool
from agent.core.model import ExecInput, Signed, TaskKind
from agent.core.program import excess
from agent.core.proof.signed import seal_all
from agent.core.wire import Credit, OfferBody, Offers, Role, encode
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, Granted
from agent.devnet.core.proofs.assigning import may_check
from agent.devnet.core.proofs.standing import has_stake
from agent.devnet.core.records import Lease, Node, Task, TaskState
from agent.devnet.core.rules import LEASES_PER_SLOT, MAX_LEASES, MAX_OFFERS_BYTES, PATH_BYTES, Instant
from agent.devnet.core.waiting import ParkedPull

R = TypeVar("R")


def conclude(book: Book, when: Instant, reply: R) -> Decision[R]:
    """Close an event after which somebody may be served.

    Before the event nobody waited for a task that he could have. So only what it changed is looked at: tasks that are
    free now, for the pull that waits longest, and nodes that may take more now.
    """
    for task in sorted(map(book.tasks.__getitem__, book.freed), key=_place):
        if task.progress.state is TaskState.QUEUED and (taker := _taker(book, when, task)):
            _serve(book, when, taker)
    book.freed.clear()
    for node_id in sorted(book.stirred):
        for parked in book.waiting.of(node_id):
            _serve(book, when, parked)
    book.stirred.clear()
    return book.decide(reply)


def grant(book: Book, when: Instant, node: Node, credits: tuple[Credit, ...], since: float) -> tuple[Signed, ...]:
    """Lease what fits: never more than asked or than the node has room for, checks and then the oldest task first over
    all credits, never more than a reply holds.

    `since` is when the node asked: it counts what an offer says from then.
    """
    if not has_stake(book, node.record.node_id):
        return ()
    picked = _Picked(Counter({index: credit.count for index, credit in enumerate(credits)}))
    room = MAX_OFFERS_BYTES
    while (found := _next(book, when, node, credits, picked)) and found[0].bytes + PATH_BYTES <= room:
        task, index = found
        room -= task.bytes + PATH_BYTES
        picked.add(task, index, credits[index].pool)
    bodies = [_offer(book, since, task, node.record.node_id) for task in picked.tasks]
    offers = seal_all(Role.OFFER, [encode(body) for body in bodies], book.key, book.sign)
    for task, body, offer in zip(picked.tasks, bodies, offers, strict=True):
        pool = picked.tasks[task]
        lease = Lease(key=body.key, node_id=body.node_id, pool=pool, idem_key=body.idem_key, offer=offer)
        _lease(book, when, task, lease)
    return tuple(offers)


@dataclass(slots=True)
class _Picked:
    """Tasks chosen for one pull, before they are leased together."""

    left: Counter[int]
    """Of each credit, by its index."""
    tasks: dict[Task, str] = field(default_factory=dict)
    """With the pool that takes it, oldest first."""
    of_pool: Counter[str] = field(default_factory=Counter)

    def add(self, task: Task, index: int, pool: str) -> None:
        self.left[index] -= 1
        self.tasks[task] = pool
        self.of_pool[pool] += 1


def _serve(book: Book, when: Instant, parked: ParkedPull) -> None:
    if offers := grant(book, when, book.node(parked.node_id), parked.credits, parked.since):
        book.waiting.remove(parked.pull_id)
        book.tell(Granted(pull_id=parked.pull_id, offers=Offers(offers=offers)))


def _taker(book: Book, when: Instant, task: Task) -> ParkedPull | None:
    """The pull that waits longest of those that can have the task."""
    for parked in book.waiting.line(task.model_digest):
        node = book.node(parked.node_id)
        if not has_stake(book, parked.node_id):
            continue
        if not _avoids(task, node, when) and any(_can(book, when, node, it, task) for it in parked.credits):
            return parked
    return None


def _next(
    book: Book, when: Instant, node: Node, credits: tuple[Credit, ...], picked: _Picked
) -> tuple[Task, int] | None:
    best: tuple[Task, int] | None = None
    for index, credit in enumerate(credits):
        if picked.left[index] <= 0:
            continue
        for task in _first_of_each_kind(book, when, node, credit, picked):
            if best is None or _place(task) < _place(best[0]):
                best = task, index
    return best


def _place(task: Task) -> tuple[bool, int]:
    """Checks first: there are only so many as there are results, and behind a long queue none would come in time."""
    return task.demand.spec.kind is not TaskKind.VERIFY, task.demand.number


def _first_of_each_kind(book: Book, when: Instant, node: Node, credit: Credit, picked: _Picked) -> Iterator[Task]:
    pool = _pool_for(node, credit, picked)
    for kind in dict.fromkeys(pool.kinds if pool else ()):
        tasks = (book.tasks[task_id] for _, task_id in book.queue.line((credit.model_digest, kind)))
        fits = lambda task: (  # noqa: E731
            task not in picked.tasks
            and not _avoids(task, node, when)
            and _suits(pool, task)
            and may_check(book, when, node, pool, task, picked.tasks)
        )
        task = next(filter(fits, tasks), None)
        if task is not None:
            yield task


def _can(book: Book, when: Instant, node: Node, credit: Credit, task: Task) -> bool:
    pool = _pool_for(node, credit)
    return (
        pool is not None
        and task.line[0] == credit.model_digest
        and task.line[1] in pool.kinds
        and _suits(pool, task)
        and may_check(book, when, node, pool, task)
    )


def _suits(pool: Pool | None, task: Task) -> bool:
    """Whether the node's owner runs a program of this publisher with these limits; of other tasks nobody asks."""
    asked = task.demand.spec.input
    if not isinstance(asked, ExecInput):
        return True
    terms = pool.programs if pool else None
    return terms is not None and asked.bundle.publisher in terms.publishers and not excess(asked.limits, terms.most)


def _pool_for(node: Node, credit: Credit, picked: _Picked | None = None) -> Pool | None:
    """The pool that the credit names, if it was advertised with this model and has room. One that was not yet waits for
    the beat that tells of it: what nobody advertised has no bound."""
    pool = node.pools.get(credit.pool)
    if pool is None or pool.model_digest != credit.model_digest:
        return None
    more, more_here = (len(picked.tasks), picked.of_pool[pool.name]) if picked else (0, 0)
    if len(node.leases) + more >= MAX_LEASES or node.busy[pool.name] + more_here >= pool.slots * LEASES_PER_SLOT:
        return None
    return pool


def _avoids(task: Task, node: Node, when: Instant) -> bool:
    return task.avoid.get(node.record.node_id, when.now) > when.now


def _offer(book: Book, since: float, task: Task, node_id: str) -> OfferBody:
    book.fence += 1
    attempt = task.progress.attempt + 1
    return OfferBody(
        node_id=node_id,
        task=task.demand.spec,
        attempt=attempt,
        fence=book.fence,
        lease_ms=ms(book.rules.lease_s),
        deadline_ms=max(ms(task.due - since), 1),
        idem_key=f"{task.task_id}/{attempt}",
        nonce=task.demand.nonce,
    )


def _lease(book: Book, when: Instant, task: Task, lease: Lease) -> None:
    attempt = lease.key.attempt
    book.move(task, msgspec.structs.replace(task.progress, state=TaskState.LEASED, attempt=attempt, lease=lease))
    task.started, task.since = False, when.now
    task.expires = when.now + min(book.rules.unstarted_s, book.rules.lease_s)
    book.alarms.set(task.expires, task.task_id, lease.key.fence)


def ms(seconds: float) -> int:
    """Whole milliseconds, rounded down."""
    return int(seconds * 1000)
