"""The attempt's table: every state × event pair is stated here or proven impossible."""

from __future__ import annotations

import itertools

import pytest

from agent.core.attempt import OCCUPIES_SLOT, STAY, TABLE, Action, Attempt, Event, ImpossibleTransition, explain
from agent.core.model import Outcome, Reason, State
from tests import builders

S, E = State, Event

# What a pair leads to: (next state, actions, outcome). `None` is "stays as it is", "!" is impossible.
EXPECTED: dict[State, dict[Event, object]] = {
    S.LEASED: {
        E.START_CONFIRMED: (S.STAGING, {Action.STAGE}, None),
        E.START_REFUSED: (S.CLOSED, set(), Outcome.DECLINED),
        E.UNFIT: (S.CLOSED, {Action.RETURN_OFFER}, Outcome.DECLINED),
        E.STAGED: "!",
        E.GENERATED: "!",
        E.FAILED: (S.CLOSED, {Action.RETURN_OFFER}, Outcome.DECLINED),
        E.PROVED: "!",
        E.STORED: "!",
        E.RECEIPTED: "!",
        E.UNDELIVERABLE: "!",
        E.CANCELLED: (S.CLOSED, {Action.STOP_WORK}, Outcome.CANCELLED),
        E.LEASE_LOST: (S.CLOSED, {Action.STOP_WORK}, Outcome.EXPIRED),
        E.LEASE_EXPIRED: (S.CLOSED, {Action.STOP_WORK}, Outcome.EXPIRED),
        E.DEADLINE_PASSED: (S.CLOSED, {Action.STOP_WORK, Action.RETURN_OFFER}, Outcome.DECLINED),
        E.HAND_BACK_ASKED: (S.CLOSED, {Action.STOP_WORK, Action.RETURN_OFFER}, Outcome.DECLINED),
    },
    S.STAGING: {
        E.START_CONFIRMED: "!",
        E.START_REFUSED: "!",
        E.UNFIT: "!",
        E.STAGED: (S.RUNNING, {Action.GENERATE}, None),
        E.GENERATED: "!",
        E.FAILED: (S.REPORTING, {Action.STORE_RESULT}, Outcome.FAILED),
        E.PROVED: "!",
        E.STORED: "!",
        E.RECEIPTED: "!",
        E.UNDELIVERABLE: "!",
        E.CANCELLED: (S.CLOSED, {Action.STOP_WORK}, Outcome.CANCELLED),
        E.LEASE_LOST: (S.CLOSED, {Action.STOP_WORK}, Outcome.EXPIRED),
        E.LEASE_EXPIRED: (S.CLOSED, {Action.STOP_WORK}, Outcome.EXPIRED),
        E.DEADLINE_PASSED: (S.REPORTING, {Action.STOP_WORK, Action.STORE_RESULT}, Outcome.EXPIRED),
        E.HAND_BACK_ASKED: (S.REPORTING, {Action.STOP_WORK, Action.STORE_RESULT}, Outcome.HANDED_BACK),
    },
    S.RUNNING: {
        E.START_CONFIRMED: "!",
        E.START_REFUSED: "!",
        E.UNFIT: "!",
        E.STAGED: "!",
        E.GENERATED: (S.PROVING, {Action.PROVE}, None),
        E.FAILED: (S.REPORTING, {Action.STORE_RESULT}, Outcome.FAILED),
        E.PROVED: "!",
        E.STORED: "!",
        E.RECEIPTED: "!",
        E.UNDELIVERABLE: "!",
        E.CANCELLED: (S.CLOSED, {Action.STOP_WORK}, Outcome.CANCELLED),
        E.LEASE_LOST: (S.CLOSED, {Action.STOP_WORK}, Outcome.EXPIRED),
        E.LEASE_EXPIRED: (S.CLOSED, {Action.STOP_WORK}, Outcome.EXPIRED),
        E.DEADLINE_PASSED: (S.REPORTING, {Action.STOP_WORK, Action.STORE_RESULT}, Outcome.EXPIRED),
        E.HAND_BACK_ASKED: (S.REPORTING, {Action.STOP_WORK, Action.STORE_RESULT}, Outcome.HANDED_BACK),
    },
    S.PROVING: {
        E.START_CONFIRMED: "!",
        E.START_REFUSED: "!",
        E.UNFIT: "!",
        E.STAGED: "!",
        E.GENERATED: "!",
        E.FAILED: (S.REPORTING, {Action.STORE_RESULT}, Outcome.FAILED),
        E.PROVED: (S.REPORTING, {Action.STORE_RESULT}, Outcome.SUCCEEDED),
        E.STORED: "!",
        E.RECEIPTED: "!",
        E.UNDELIVERABLE: "!",
        E.CANCELLED: (S.CLOSED, {Action.STOP_WORK}, Outcome.CANCELLED),
        E.LEASE_LOST: None,
        E.LEASE_EXPIRED: None,
        E.DEADLINE_PASSED: None,
        E.HAND_BACK_ASKED: None,
    },
    S.REPORTING: dict.fromkeys(Event) | dict.fromkeys((E.RECEIPTED, E.UNDELIVERABLE), (S.CLOSED, set(), None)),
    S.CLOSED: dict.fromkeys(Event),
}


def attempt_in(state: State) -> Attempt:
    offer = builders.offer()
    return Attempt(
        key=offer.key,
        offer=offer,
        signed=builders.signed(),
        pool="main",
        leased_at=0.0,
        lease_deadline=36.0,
        task_deadline=600.0,
        state=state,
    )


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_of_state_and_event_does_what_is_stated(state: State, event: Event) -> None:
    attempt, expected = attempt_in(state), EXPECTED[state][event]
    if expected == "!":
        with pytest.raises(ImpossibleTransition, match="task-1/1 fence 1"):
            attempt.advance(event, 1.0)
        return
    step = attempt.advance(event, 1.0, Reason.ABORTED)
    if expected is None:
        assert step is STAY
        assert attempt.state is state
        return
    after, actions, outcome = expected  # type: ignore[misc]
    assert (attempt.state, set(step.actions), attempt.outcome) == (after, actions, outcome)
    assert (attempt.reason is not None) == (outcome is not None)


def test_what_ends_an_attempt_always_stops_its_work_first() -> None:
    for (state, event), step in TABLE.items():
        ours = event not in {E.START_REFUSED, E.UNFIT, E.FAILED}  # there the work has ended by itself
        if state in OCCUPIES_SLOT and step.state in {State.CLOSED, State.REPORTING} and ours:
            assert step.actions[0] is Action.STOP_WORK, (state, event)


def test_an_impossible_event_tells_the_story_of_the_attempt() -> None:
    attempt = attempt_in(State.LEASED)
    attempt.advance(Event.START_CONFIRMED, 0.25)
    with pytest.raises(ImpossibleTransition, match=r"generated while staging: .*start_confirmed \+0\.250s"):
        attempt.advance(Event.GENERATED, 1.0)


def test_a_renewal_never_shortens_a_lease() -> None:
    attempt = attempt_in(State.RUNNING)
    attempt.renew(50.0)
    attempt.renew(40.0)
    assert attempt.lease_deadline == 50.0


def test_the_diagram_has_every_transition() -> None:
    diagram = explain()
    assert "running --> proving: generated" in diagram
    assert diagram.count("-->") == 2 + len({(s, step.state) for (s, _), step in TABLE.items() if step.state})
