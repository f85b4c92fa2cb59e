from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.schedule import is_open, next_change, parse_window

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 11, 23, tzinfo=BERLIN)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """Day 0 is a Monday."""
    return MONDAY.replace(day=23 + day, hour=hour, minute=minute)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("09:00-17:00", [at(0, 9), at(6, 16, 59)], [at(0, 8, 59), at(0, 17)]),
        ("22:00-06:00", [at(0, 22), at(1, 5, 59), at(0, 0)], [at(0, 6), at(0, 21, 59)]),
        ("mon-fri 18:00-08:00", [at(0, 18), at(4, 23), at(5, 7, 59)], [at(5, 8), at(5, 19), at(0, 7), at(0, 12)]),
        ("sat,sun 00:00-24:00", [at(5, 0), at(6, 23, 59)], [at(4, 23, 59), at(0, 0)]),
        ("fri-mon 10:00-11:00", [at(4, 10), at(6, 10), at(0, 10)], [at(1, 10), at(3, 10)]),
        ("SUN 23:00-1:00", [at(6, 23, 30), at(0, 0, 30)], [at(0, 1), at(0, 23, 30)]),
    ],
)
def test_a_window_holds_what_it_says(window: str, inside: list[datetime], outside: list[datetime]) -> None:
    plan = (parse_window(window),)
    assert [is_open(plan, moment) for moment in inside] == [True] * len(inside)
    assert [is_open(plan, moment) for moment in outside] == [False] * len(outside)


def test_without_windows_the_machine_may_always_work() -> None:
    assert is_open((), at(0, 3))
    assert next_change((), at(0, 3), BERLIN) is None


def test_several_windows_add_up() -> None:
    plan = (parse_window("mon 09:00-12:00"), parse_window("mon 11:00-13:00"))
    assert is_open(plan, at(0, 12, 30))
    assert next_change(plan, at(0, 10), BERLIN) == at(0, 13)


@pytest.mark.parametrize(
    "text",
    ["", "always", "25:00-26:00", "09:60-10:00", "24:00-25:00", "24:00-06:00", "09:00-09:00", "moon 1:00-2:00", "9-17"],
)
def test_what_is_no_window_says_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no time|begins|length|days are"):
        parse_window(text)


def test_the_next_change_is_told_over_a_week() -> None:
    plan = (parse_window("sun 20:00-21:00"),)
    assert next_change(plan, at(0, 0), BERLIN) == at(6, 20)
    assert next_change(plan, at(6, 20, 30), BERLIN) == at(6, 21)
    assert next_change((parse_window("00:00-24:00"),), at(0, 5), BERLIN) is None


def test_a_night_in_which_the_clock_is_put_forward_is_an_hour_shorter() -> None:
    """2026-03-29, 02:00 becomes 03:00 in Berlin."""
    plan = (parse_window("22:00-02:30"),)
    evening = datetime(2026, 3, 28, 23, 0, tzinfo=BERLIN)
    shut = next_change(plan, evening, BERLIN)
    assert shut == datetime(2026, 3, 29, 3, 0, tzinfo=BERLIN)
    assert shut.astimezone(UTC) - evening.astimezone(UTC) == timedelta(hours=3)


def test_a_night_in_which_the_clock_is_put_back_keeps_to_the_clock() -> None:
    """2026-10-25, 03:00 becomes 02:00: 02:30 comes twice, and the hour between is inside and outside in turn."""
    plan = (parse_window("22:00-02:30"),)
    first = datetime(2026, 10, 25, 2, 15, tzinfo=BERLIN, fold=0)
    second = first.replace(fold=1)
    assert is_open(plan, first)
    assert is_open(plan, second)
    assert not is_open(plan, first.replace(minute=45))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 23), st.integers(0, 23), st.sampled_from(["", "mon ", "sat-mon ", "tue,fri "])).filter(
            lambda it: it[0] != it[1]
        ),
        min_size=1,
        max_size=2,
    ),
    st.integers(0, 365 * 24 * 60).map(lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)),
)
def test_nothing_changes_before_the_next_change(windows: list[tuple[int, int, str]], now: datetime) -> None:
    plan = tuple(parse_window(f"{days}{begin:02}:00-{end:02}:00") for begin, end, days in windows)
    change = next_change(plan, now, BERLIN)
    state = is_open(plan, now.astimezone(BERLIN))
    end = change.astimezone(UTC) if change else now + timedelta(days=8)
    for quarters in range(int((end - now) / timedelta(minutes=15))):
        assert is_open(plan, (now + quarters * timedelta(minutes=15)).astimezone(BERLIN)) is state
    assert change is None or is_open(plan, change) is not state
