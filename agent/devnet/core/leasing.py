"""What becomes of a lease: asked for, confirmed, renewed, declined, expired."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from agent.core.model import ExecInput, LeaseKey, Outcome, Reason, TaskInput, VerifyInput
from agent.core.program import blobs_of
from agent.core.wire import MAX_PULL_WAIT_S, Ack, Cancel, Confirmed, Decline, Offers, Pull, StartAck
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, Granted, PushTo
from agent.devnet.core.granting import conclude, grant, ms
from agent.devnet.core.proofs.silence import undelivered
from agent.devnet.core.queue import DEADLINE, PAUSE, Alarm
from agent.devnet.core.records import ENDED, Lease, Task, TaskState
from agent.devnet.core.rules import MAX_CREDITS, PASSING, Instant, bad_message
from agent.devnet.core.waiting import ParkedPull


def pull(book: Book, when: Instant, node_id: str, pull_id: int, message: Pull) -> Decision[Offers | None]:
    """Offers at once, or None: then a `Granted` for `pull_id` follows. Raises Refused."""
    node = book.node(node_id)
    _check_credits(message)
    offers = grant(book, when, node, message.credits, since=when.now)
    # A reply later than half a lease would leave the node too little of it, for it counts from when it asked.
    wait_s = min(message.wait_s, MAX_PULL_WAIT_S, book.rules.lease_s / 2)
    if offers or wait_s <= 0:
        return book.decide(Offers(offers=offers))
    book.waiting.add(ParkedPull(pull_id, node_id, message.credits, when.now, when.now + wait_s))
    return book.decide(None)


def withdraw(book: Book, pull_id: int) -> None:
    """Whoever asked is gone: a parked pull must not be granted anything."""
    book.waiting.remove(pull_id)


def start(book: Book, when: Instant, node_id: str, keys: tuple[LeaseKey, ...]) -> Decision[StartAck]:
    """Confirm leases before anything runs; asking again confirms again."""
    return book.decide(StartAck(leases=tuple(_confirm(book, when, node_id, key) for key in keys)))


def _confirm(book: Book, when: Instant, node_id: str, key: LeaseKey) -> Confirmed:
    task = book.held_by(node_id, key)
    if task is None:
        return Confirmed(key=key, ok=False, detail=_why_not_held(book, node_id, key))
    renew(book, when, task)
    return Confirmed(key=key, ok=True, lease_ms=ms(book.rules.lease_s))


def may_read(book: Book, node_id: str, sha256: str) -> bool:
    """Whether a task that this node holds needs this blob."""
    held = (book.tasks[task_id].demand.spec.input for task_id in book.node(node_id).leases)
    return any(sha256 in _needed(asked) for asked in held)


def _needed(asked: TaskInput) -> Collection[str]:
    match asked:
        case ExecInput():
            return blobs_of(asked)
        case VerifyInput():
            return (asked.evidence.sha256,)
        case _:
            return ()


def decline(book: Book, when: Instant, node_id: str, message: Decline) -> Decision[Ack]:
    """The node will not start it: to the queue at once, but not to the same node for a while.

    A decline of a lease that is over changes nothing and is acknowledged: the node wants to be rid of it.
    """
    if task := book.held_by(node_id, message.key):
        avoid_after_return(book, when, task, node_id, passing=message.reason in PASSING)
        book.end_lease(task, when, Outcome.DECLINED, message.reason, message.detail, counts=False)
    return conclude(book, when, Ack())


def avoid_after_return(book: Book, when: Instant, task: Task, node_id: str, *, passing: bool) -> None:
    """Keep a task from the node that gave it back, for as long as the reason is likely to hold.

    Where it passes by itself the wait doubles with every return by this node: going to and fro must come to an end.
    """
    rules = book.rules
    pause_s = rules.pause_after_decline_s
    if passing:
        pause_s = min(rules.pause_while_busy_s * 2 ** task.progress.returns_of(node_id), pause_s)
    book.avoid(task, node_id, when.now + pause_s)


def renew(book: Book, when: Instant, task: Task) -> None:
    """A full lease from now; the alarm that was set before rings early and is set anew."""
    task.started = True
    task.expires = when.now + book.rules.lease_s


def sweep(book: Book, when: Instant) -> Decision[None]:
    """Time passed: leases and deadlines that ran out, pulls that waited long enough, pauses that are over."""
    for alarm in book.alarms.ringing(when.now):
        _ring(book, when, alarm)
    for parked in book.waiting.overdue(when.now):
        book.waiting.remove(parked.pull_id)
        book.tell(Granted(pull_id=parked.pull_id, offers=Offers()))
    return conclude(book, when, None)


def _check_credits(message: Pull) -> None:
    if any(credit.count < 1 for credit in message.credits):
        raise bad_message("a credit asks for less than one task; leave it out instead")
    if not 0 <= message.wait_s < float("inf"):
        raise bad_message(f"wait_s is {message.wait_s}; expected 0 to {MAX_PULL_WAIT_S:.0f} seconds")
    if sum(credit.count for credit in message.credits) > MAX_CREDITS:
        raise bad_message(f"a pull may ask for {MAX_CREDITS} tasks at most")
    if not message.credits:
        raise bad_message("a pull without credits asks for nothing")


# --------------------------------------------------------------------------- endings


def _ring(book: Book, when: Instant, alarm: Alarm) -> None:
    task = book.tasks.get(alarm.task_id)
    if task is None or task.progress.state in ENDED:
        return
    if alarm.fence == DEADLINE:
        _overdue(book, when, task)
    elif alarm.fence == PAUSE:
        book.freed.add(task.task_id)
    elif (
        task.progress.state is TaskState.LEASED and task.progress.lease and task.progress.lease.key.fence == alarm.fence
    ):
        if task.expires > when.now:
            book.alarms.set(task.expires, task.task_id, alarm.fence)
        else:
            _expire(book, when, task, task.progress.lease)


def _expire(book: Book, when: Instant, task: Task, lease: Lease) -> None:
    """A lease that nobody ever confirmed is no failed attempt: the offer itself was probably lost."""
    book.avoid(task, lease.node_id, when.now + book.rules.pause_after_failure_s)
    detail = "the node was not heard of in time" if task.started else "the offer was never confirmed"
    book.end_lease(task, when, Outcome.EXPIRED, Reason.LEASE_EXPIRED, detail, counts=task.started)
    if task.started:
        undelivered(book, when, task, lease, detail)


def _overdue(book: Book, when: Instant, task: Task) -> None:
    lease = task.progress.lease if task.progress.state is TaskState.LEASED else None
    seconds = task.demand.deadline_ms / 1000
    detail = f"not done within its deadline of {seconds:g} s"
    book.move(task, msgspec.structs.replace(task.progress, state=TaskState.FAILED, detail=detail))
    if lease:
        # Who had less of its time could have been made late by somebody who held it before.
        if task.started and when.now - task.since >= seconds / 2:
            undelivered(book, when, task, lease, detail)
        book.tell(PushTo(node_id=lease.node_id, push=Cancel(key=lease.key, reason=Reason.DEADLINE_PASSED)))


def _why_not_held(book: Book, node_id: str, key: LeaseKey) -> str:
    task = book.tasks.get(key.task_id)
    if task is None:
        return "no such task"
    lease = task.progress.lease
    if lease is None or lease.key != key or lease.node_id != node_id:
        return "this lease is not yours or not the latest"
    return f"the lease is over: the task is {task.progress.state.value}"
