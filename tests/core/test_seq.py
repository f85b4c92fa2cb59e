"""The anti-replay window admits every number once, in any order that stays inside the window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.seq import MAX_SEQ, WINDOW, ReplayWindow


def feed(*numbers: int) -> tuple[list[bool], ReplayWindow]:
    window, verdicts = ReplayWindow(), []
    for number in numbers:
        following = window.admit(number)
        verdicts.append(following is not None)
        window = following or window
    return verdicts, window


@pytest.mark.parametrize(
    ("numbers", "verdicts"),
    [
        ((1, 2, 3), [True, True, True]),
        ((1, 1), [True, False]),
        ((0,), [False]),  # the hello's own number
        ((3, 1, 2), [True, True, True]),
        ((3, 1, 1), [True, True, False]),
        ((WINDOW, 1), [True, True]),  # the oldest number that still fits
        ((WINDOW + 1, 1), [True, False]),  # one too old
        ((WINDOW - 1, 0), [True, False]),  # 0 stays remembered up to the edge
        ((MAX_SEQ, MAX_SEQ), [True, False]),
        ((MAX_SEQ + 1,), [False]),
        ((-1,), [False]),
        ((10**400, 1), [False, True]),
    ],
)
def test_a_number_is_admitted_once_and_only_inside_the_window(numbers: tuple[int, ...], verdicts: list[bool]) -> None:
    assert feed(*numbers)[0] == verdicts


def test_a_refused_number_changes_nothing() -> None:
    _, window = feed(5, 2)
    assert window.admit(2) is None
    assert window.admit(4) is not None


@given(st.lists(st.integers(min_value=0, max_value=3 * WINDOW), max_size=60))
def test_the_window_agrees_with_a_set_that_forgets_nothing(numbers: list[int]) -> None:
    window, seen = ReplayWindow(), {0}
    for number in numbers:
        expected = number not in seen and number > max(seen) - WINDOW
        following = window.admit(number)
        assert (following is not None) == expected
        if following is not None:
            window = following
            seen.add(number)


@given(st.lists(st.integers(min_value=0, max_value=MAX_SEQ), max_size=30))
def test_the_window_never_grows_past_its_width(numbers: list[int]) -> None:
    assert feed(*numbers)[1].seen.bit_length() <= WINDOW
