"""When the stream is preferred, when the node polls, and when it tries the stream again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.baton import (
    FIRST_PROBE_S,
    LAST_PROBE_S,
    SPREAD,
    STEADY_S,
    Baton,
    Transport,
    poll_recovered,
    probe_delay_s,
    stream_failed,
    stream_worked,
)

NOW = 1000.0


def test_a_new_baton_prefers_the_stream() -> None:
    assert Baton().transport is Transport.STREAM


def test_a_stream_that_cannot_be_opened_makes_the_node_poll_and_says_why() -> None:
    baton = stream_failed(Baton(), NOW, "HTTP 404", 0.0)
    assert (baton.transport, baton.why) == (Transport.POLL, "HTTP 404")
    assert baton.probe_at == NOW + FIRST_PROBE_S


def test_a_stream_that_is_well_again_gets_the_baton_back() -> None:
    baton = stream_worked(stream_failed(Baton(), NOW, "cut", 0.0), NOW + 5)
    assert (baton.transport, baton.why) == (Transport.STREAM, "well again")


def test_work_that_changes_nothing_returns_the_same_baton() -> None:
    baton = stream_worked(Baton(), NOW)
    assert stream_worked(baton, NOW + 1) is baton


def test_a_steady_stream_has_one_loss_forgiven_but_not_a_second() -> None:
    steady = stream_worked(Baton(), NOW)
    once = stream_failed(steady, NOW + STEADY_S, "cut", 0.0)
    assert once.transport is Transport.STREAM
    assert stream_failed(once, NOW + STEADY_S, "refused", 0.0).transport is Transport.POLL


def test_a_stream_that_breaks_soon_after_opening_is_not_forgiven() -> None:
    opened = stream_worked(Baton(), NOW)
    assert stream_failed(opened, NOW + STEADY_S - 1, "cut", 0.0).transport is Transport.POLL


def test_a_flapping_stream_is_tried_ever_more_rarely() -> None:
    baton, now, delays = Baton(), NOW, []
    for _ in range(10):
        baton = stream_failed(baton, now, "cut", 0.0)
        delays.append(baton.probe_at - now)
        now = baton.probe_at
        baton = stream_worked(baton, now)
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]


def test_a_steady_stream_forgets_its_old_strikes() -> None:
    baton = Baton(strikes=6, well_since=NOW)
    assert stream_failed(baton, NOW + STEADY_S, "cut", 0.0).strikes == 0


def test_the_return_of_the_coordinator_brings_the_next_try_forward() -> None:
    baton = Baton(transport=Transport.POLL, strikes=6, probe_at=NOW + 300)
    assert poll_recovered(baton, NOW).probe_at == NOW


def test_a_poll_that_ends_after_the_stream_took_over_changes_nothing() -> None:
    baton = stream_worked(Baton(), NOW)
    assert poll_recovered(baton, NOW) is baton


@pytest.mark.parametrize("strikes", [1, 2, 7, 1000])
def test_chance_only_lengthens_a_delay(strikes: int) -> None:
    shortest = probe_delay_s(strikes, 0.0)
    assert FIRST_PROBE_S <= shortest <= LAST_PROBE_S
    assert shortest < probe_delay_s(strikes, 0.999) < shortest * (1 + SPREAD)


EVENTS = st.sampled_from(["failed", "worked", "recovered"])


@given(st.lists(st.tuples(EVENTS, st.floats(0, 500)), max_size=40))
def test_whatever_happens_a_polling_node_always_has_a_next_try_in_reach(story: list[tuple[str, float]]) -> None:
    baton, now = Baton(), NOW
    for event, pause in story:
        now += pause
        if event == "failed":
            baton = stream_failed(baton, now, "cut", 0.5)
        elif event == "worked":
            baton = stream_worked(baton, now)
        else:
            baton = poll_recovered(baton, now)
        if event == "failed" and baton.transport is Transport.POLL:
            assert FIRST_PROBE_S <= baton.probe_at - now <= LAST_PROBE_S * (1 + SPREAD)
        assert (baton.transport is Transport.STREAM) or baton.strikes > 0
