"""When a pool stops itself, and how it comes back."""

from __future__ import annotations

import pytest

from agent.core import events as ev
from agent.core.attempt import Event
from agent.core.breaker import FIRST_WAIT_S, LONGEST_WAIT_S, OWN_FAULTS, Breaker, BreakerState
from agent.core.model import Outcome, Reason
from agent.core.node import Node
from agent.core.orders import Voice
from tests import builders
from tests.core.test_node import WORK, arrive, happen, kinds

CLOSED, OPEN, TRYING = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.TRYING
CRASH = (Outcome.FAILED, Reason.ENGINE_CRASHED)
DONE = (Outcome.SUCCEEDED, Reason.COMPLETED)
LOST = (Outcome.EXPIRED, Reason.LEASE_LOST)
CANCEL = (Outcome.CANCELLED, Reason.CANCELLED_BY_REQUESTER)
REFUSED = (Outcome.FAILED, Reason.ENGINE_REFUSED)


@pytest.mark.parametrize(
    ("story", "state"),
    [
        ([], CLOSED),
        ([CRASH, CRASH], CLOSED),
        ([CRASH, CRASH, CRASH], OPEN),
        ([CRASH, CRASH, DONE, CRASH, CRASH], CLOSED),
        ([CRASH, CRASH, LOST, CRASH], OPEN),
        ([CRASH, CANCEL, CRASH, REFUSED, CRASH], OPEN),
        ([REFUSED, REFUSED, REFUSED, REFUSED, LOST, CANCEL], CLOSED),
        ([CRASH, CRASH, CRASH, "wait"], TRYING),
        ([CRASH, CRASH, CRASH, CRASH, "wait"], TRYING),
        ([CRASH, CRASH, CRASH, DONE], CLOSED),
        ([CRASH, CRASH, CRASH, "wait", CRASH], OPEN),
        ([CRASH, CRASH, CRASH, "wait", CANCEL], TRYING),
        ([CRASH, CRASH, CRASH, "wait", DONE], CLOSED),
        ([CRASH, CRASH, CRASH, "wait", DONE, CRASH, CRASH], CLOSED),
        ([CRASH, CRASH, CRASH, "resume"], TRYING),
    ],
)
def test_a_story_of_attempts_leads_to_a_state(story: list[object], state: BreakerState) -> None:
    breaker, now = Breaker(3), 0.0
    for step in story:
        if step == "wait":
            now += FIRST_WAIT_S
            breaker.tick(now)
        elif step == "resume":
            breaker.retry()
        else:
            breaker.ended(*step, now)  # type: ignore[misc]
    assert breaker.state is state


@pytest.mark.parametrize(
    ("story", "limit", "state"),
    [
        ([CRASH, CRASH], 2, TRYING),
        ([CRASH, CRASH, CRASH, "wait"], 4, CLOSED),
        ([CRASH, CRASH, CRASH], 4, OPEN),  # the wait has begun
        ([CRASH], 2, CLOSED),
    ],
)
def test_another_limit_counts_at_once(story: list[object], limit: int, state: BreakerState) -> None:
    breaker = Breaker(3)
    for step in story:
        if step == "wait":
            breaker.tick(FIRST_WAIT_S)
        else:
            breaker.ended(*step, 0.0)  # type: ignore[misc]
    breaker.limit(limit)
    assert breaker.state is state
    assert breaker.tell() if state is not CLOSED else not breaker.tell()


def test_a_node_takes_another_limit_for_all_its_pools_and_tells_what_that_moved() -> None:
    node = Node(builders.NODE, breaker_failures=3)
    node.handle(ev.PoolChanged(pool=builders.pool()), 0.0)
    node.breakers["main"].ended(*CRASH, 0.0)
    [moved] = node.handle(ev.BreakerLimitChanged(failures=1), 0.0)
    assert isinstance(moved, ev.BreakerMoved)
    assert moved.state == TRYING
    node.handle(ev.PoolChanged(pool=builders.pool(name="late")), 0.0)
    node.breakers["late"].ended(*CRASH, 0.0)
    assert node.breakers["late"].state is OPEN


@pytest.mark.parametrize("reason", sorted(OWN_FAULTS))
def test_every_fault_of_the_node_counts_even_when_it_shows_before_the_start(reason: Reason) -> None:
    breaker = Breaker(1)
    breaker.ended(Outcome.DECLINED, reason, 0.0)
    assert breaker.state is OPEN
    assert reason in breaker.tell()


def test_each_failed_try_doubles_the_wait_up_to_a_cap() -> None:
    breaker, now, waits = Breaker(2), 0.0, []
    breaker.ended(*CRASH, now)
    for _ in range(40):
        breaker.ended(*CRASH, now)
        assert breaker.retry_at is not None
        waits.append(breaker.retry_at - now)
        breaker.tick(breaker.retry_at - 0.001)
        assert breaker.state is OPEN
        now = breaker.retry_at
        breaker.tick(now)
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert set(waits[5:]) == {LONGEST_WAIT_S}


@pytest.mark.parametrize(
    ("state", "free", "busy", "room"),
    [(CLOSED, 3, 1, 3), (OPEN, 3, 0, 0), (TRYING, 3, 0, 1), (TRYING, 2, 1, 0), (TRYING, 0, 0, 0)],
)
def test_how_many_tasks_each_state_lets_in(state: BreakerState, free: int, busy: int, room: int) -> None:
    breaker = Breaker(1)
    if state is not CLOSED:
        breaker.ended(*CRASH, 0.0)
    if state is TRYING:
        breaker.retry()
    assert breaker.state is state
    assert breaker.room(free, busy) == room


# --------------------------------------------------------------------------- in the node


def broken(*names: str, failures: int = 3) -> Node:
    """A node with these pools, of which the first has failed three tasks in a row."""
    node = Node(builders.NODE, breaker_failures=3)
    for number, name in enumerate(names):
        model = "sha256:" + f"{number:02}" * 32
        node.handle(ev.PoolChanged(pool=builders.pool(name, model_digest=model)), 0.0)
    for number in range(failures):
        fail(node, f"bad-{number}")
    return node


def task_of(number: int, name: str, **changes: object):
    return builders.offer(name, spec=builders.task(name, model="sha256:" + f"{number:02}" * 32), **changes)


def fail(node: Node, name: str, now: float = 1.0) -> list[ev.Command]:
    offer = task_of(0, name)
    arrive(node, offer, now)
    happen(node, offer.key, Event.START_CONFIRMED, Event.STAGED, now=now)
    return happen(node, offer.key, Event.FAILED, now=now, reason=Reason.ENGINE_CRASHED)


def test_failures_in_a_row_shut_the_pool_with_a_reason_a_wait_and_a_word_in_the_log() -> None:
    node = broken("main", failures=2)
    assert node.credit("main") is not None
    [moved] = [c for c in fail(node, "third") if isinstance(c, ev.BreakerMoved)]
    assert (moved.pool, moved.state) == ("main", "open")
    assert node.credit("main") is None
    [gate] = node.gates(11.0)
    assert gate.reason is Reason.TOO_MANY_FAILURES
    assert "main" in gate.detail
    assert "in 20 s" in gate.detail


def test_an_offer_that_was_on_its_way_is_declined_with_that_reason() -> None:
    node = broken("main")
    [command] = arrive(node, task_of(0, "late"), 2.0)
    assert isinstance(command, ev.ReturnOffer)
    assert command.reason is Reason.TOO_MANY_FAILURES


def test_a_broken_pool_keeps_no_other_pool_from_working() -> None:
    node = broken("main", "other")
    assert node.credit("main") is None
    assert node.credit("other") is not None
    assert node.gates() == []


def test_after_the_wait_one_task_is_tried_and_its_success_opens_all_slots() -> None:
    node = broken("main")
    due = node.next_deadline()
    assert due == 1.0 + FIRST_WAIT_S
    node.handle(ev.Ticked(), due)
    credit = node.credit("main")
    assert credit is not None
    assert credit.count == 1
    assert kinds(arrive(node, task_of(0, "probe"), due)) == [ev.ConfirmStart]
    assert node.credit("main") is None
    commands = happen(node, task_of(0, "probe").key, *WORK, now=due)
    assert [c.state for c in commands if isinstance(c, ev.BreakerMoved)] == ["closed"]
    credit = node.credit("main")
    assert credit is not None
    assert credit.count == 2


def test_resume_tries_at_once_when_the_owner_says_so_and_not_the_coordinator() -> None:
    node = broken("main")
    node.handle(ev.ResumeAsked(by=Voice.COORDINATOR), 2.0)
    assert node.credit("main") is None
    node.handle(ev.ResumeAsked(), 2.0)
    assert node.credit("main") is not None
    assert node.gates() == []
