"""core.watchdog: when the service manager may believe that we live."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.watchdog import Pulse, Tally

GRACE_S, SILENCE_S = 100.0, 300.0


def pulse(**bounds_s: float) -> Pulse:
    return Pulse(bounds_s, started=0.0, grace_s=GRACE_S, link_silence_s=SILENCE_S)


@pytest.mark.parametrize(
    ("beats", "now", "stalled"),
    [
        ({}, 0.0, False),  # just started
        ({}, GRACE_S + 10.0, False),  # the grace, and then the loop's own bound
        ({}, GRACE_S + 10.1, True),
        ({"pull": 50.0}, 60.0, False),
        ({"pull": 50.0}, 60.1, True),  # once it has turned, grace is over for it
    ],
)
def test_a_loop_must_turn_within_its_bound(beats: dict[str, float], now: float, stalled: bool) -> None:
    watched = pulse(pull=10.0)
    for loop, at in beats.items():
        watched.beat(loop, at)
    watched.answered(now)
    assert bool(watched.stalled(now)) is stalled


def test_every_loop_that_stands_still_is_named() -> None:
    watched = pulse(pull=10.0, report=10.0, probe=1000.0)
    watched.answered(200.0)
    assert [fault.split()[1] for fault in watched.stalled(200.0)] == ["pull", "report"]


@pytest.mark.parametrize(
    ("answered", "tried", "now", "stalled"),
    [
        (None, None, GRACE_S + SILENCE_S, False),
        (None, None, GRACE_S + SILENCE_S + 1, True),
        (10.0, None, 310.0, False),
        (10.0, None, 311.0, True),
        (10.0, 200.0, 500.0, False),  # unreachable, but it keeps trying: a restart would mend nothing
        (10.0, 200.0, 501.0, True),
        (200.0, 10.0, 500.0, False),
    ],
)
def test_the_link_must_be_answered_or_keep_trying(
    answered: float | None, tried: float | None, now: float, stalled: bool
) -> None:
    watched = pulse()
    if answered is not None:
        watched.answered(answered)
    if tried is not None:
        watched.tried(tried)
    assert bool(watched.stalled(now)) is stalled


@given(st.lists(st.integers(1, int(SILENCE_S)), max_size=50))
def test_a_coordinator_that_never_answers_never_restarts_a_link_that_keeps_trying(pauses_s: list[int]) -> None:
    watched, now = pulse(), 0.0
    for pause_s in pauses_s:
        now += pause_s
        watched.tried(now)
        assert watched.stalled(now + SILENCE_S) == ()


def test_a_loop_without_a_bound_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        pulse(pull=1.0).beat("pul", 0.0)


def test_the_last_answer_is_told_for_the_status() -> None:
    watched = pulse()
    assert watched.last_answer() is None
    watched.answered(7.0)
    assert watched.last_answer() == 7.0


@pytest.mark.parametrize(
    ("before", "now", "moved"),
    [
        (None, Tally(3, 0), True),  # seen for the first time
        (Tally(0, 7), Tally(0, 7), True),  # nothing to do
        (Tally(0, 7), Tally(1, 7), False),
        (Tally(1, 7), Tally(2, 7), False),
        (Tally(5, 7), Tally(5, 8), True),  # behind, but at work
    ],
)
def test_a_loop_that_acts_on_demand_may_rest_but_not_while_something_waits(
    before: Tally | None, now: Tally, moved: bool
) -> None:
    assert now.moved_since(before) is moved
