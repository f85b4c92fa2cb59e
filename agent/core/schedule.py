"""When the owner lets the machine work: weekly windows on the owner's own clock, over midnight too.

Only the wall clock of the owner's time zone counts, read anew each time: a change to or from summer time moves
nothing but the length of that one night.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
LOOK_AHEAD_DAYS = 8
"""A weekly plan that does not change within eight days never does."""
EXPECTED = "expected days and times: `mon-fri 18:00-08:00`, `sat,sun 00:00-24:00` or, every day, `22:00-06:00`"
_WINDOW = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(?P<from>\d{1,2}:\d{2})-(?P<to>\d{1,2}:\d{2})")


class Window(NamedTuple):
    """Open from `begins` to `ends`, minutes of the day, on each of `days` (0 is Monday). `ends` <= `begins` lies on the
    next day."""

    days: frozenset[int]
    begins: int
    ends: int

    def holds(self, local: datetime) -> bool:
        """Whether this moment of the owner's clock is inside."""
        today, minute = local.weekday(), local.hour * 60 + local.minute
        if self.begins < self.ends:
            return today in self.days and self.begins <= minute < self.ends
        yesterday = (today - 1) % 7
        return (today in self.days and minute >= self.begins) or (yesterday in self.days and minute < self.ends)


def parse_window(text: str) -> Window:
    """Raises ValueError that says what was expected."""
    found = _WINDOW.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r}: {EXPECTED}")
    begins, ends = _minute(found["from"], text), _minute(found["to"], text)
    if begins == DAY_MINUTES:
        raise ValueError(f"{text!r}: a window begins before 24:00")
    if begins == ends:
        raise ValueError(f"{text!r}: a window of no length; a whole day is 00:00-24:00")
    return Window(_days(found["days"] or "mon-sun", text), begins, ends)


def is_open(windows: Iterable[Window], now: datetime) -> bool:
    """Whether the owner's plan lets the machine work at this local time. No window at all means always."""
    plan = tuple(windows)
    return not plan or any(window.holds(now) for window in plan)


def next_change(windows: Iterable[Window], now: datetime, zone: tzinfo) -> datetime | None:
    """The next moment at which the plan opens or shuts, in `zone`; None when it never does.

    Looked for minute by minute of real time around each end of a window: on a night of 23 or 25 hours the local time of
    an end may not exist, or come twice.
    """
    plan = tuple(windows)
    state = is_open(plan, now.astimezone(zone))
    for moment in _ends(plan, now, zone):
        if is_open(plan, moment.astimezone(zone)) is not state:
            return moment.astimezone(zone)
    return None


def _ends(plan: tuple[Window, ...], now: datetime, zone: tzinfo) -> Iterable[datetime]:
    """Moments after `now`, in order, at which the state may change: every whole hour too, for shifts of the clock."""
    marks = sorted({minute % DAY_MINUTES for window in plan for minute in (window.begins, window.ends)})
    moment = now.astimezone(UTC).replace(second=0, microsecond=0)
    last = moment + timedelta(days=LOOK_AHEAD_DAYS)
    while (moment := moment + timedelta(minutes=1)) < last:
        local = moment.astimezone(zone)
        if local.minute == 0 or (local.hour * 60 + local.minute) in marks:
            yield moment


def _minute(text: str, whole: str) -> int:
    hour, minute = map(int, text.split(":"))
    total = hour * 60 + minute
    if minute > 59 or total > DAY_MINUTES:
        raise ValueError(f"{whole!r}: there is no time {text}")
    return total


def _days(text: str, whole: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{whole!r}: days are {', '.join(DAYS)}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days.update(range(begin, end + 1) if begin <= end else (*range(begin, 7), *range(end + 1)))
    return frozenset(days)
