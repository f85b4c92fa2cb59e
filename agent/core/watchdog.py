"""May the service manager's watchdog be fed? Only while every loop turns and the link is alive.

An unreachable coordinator must never make the service restart for ever: a link that keeps trying is healthy, and a
restart would mend nothing. So the link counts as alive when the coordinator answered *or* an attempt to reach it
ended, whichever is later. What remains is the fault that a restart does mend: a link that believes it is connected,
hears nothing and tries nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

START_GRACE_S = 120.0
"""Time to load models and open the first session, on top of each loop's own bound."""
LINK_SILENCE_S = 300.0
"""Five heartbeats of the slowest beat (30 s) and two reconnect pauses at the longest backoff (60 s), with room."""


class Tally(NamedTuple):
    """What waits for a loop that acts on demand, and how much it has taken so far: it may rest for days, but not while
    something waits.
    """

    waiting: int
    taken: int

    def moved_since(self, before: Tally | None) -> bool:
        """Whether the loop does its work."""
        return not self.waiting or before is None or self.taken != before.taken


class Pulse:
    """When each loop last turned, and when the link last showed life. All times are monotonic seconds.

    `bounds_s` names the loops and the longest silence that each may keep; a long-poll loop's bound is above its wait.
    """

    def __init__(
        self,
        bounds_s: Mapping[str, float],
        *,
        started: float,
        grace_s: float = START_GRACE_S,
        link_silence_s: float = LINK_SILENCE_S,
    ) -> None:
        self._bounds_s = dict(bounds_s)
        self._first_due = started + grace_s
        self._link_silence_s = link_silence_s
        self._turned: dict[str, float] = {}
        self._answered: float | None = None
        self._tried: float | None = None

    def beat(self, loop: str, now: float) -> None:
        """The loop turned. KeyError when no bound was given for it: an unwatched loop is a mistake."""
        if loop not in self._bounds_s:
            raise KeyError(loop)
        self._turned[loop] = now

    def answered(self, now: float) -> None:
        """The coordinator answered."""
        self._answered = now

    def tried(self, now: float) -> None:
        """An attempt to reach the coordinator ended without an answer."""
        self._tried = now

    def last_answer(self) -> float | None:
        """When the coordinator last answered; None when it never did."""
        return self._answered

    def stalled(self, now: float) -> tuple[str, ...]:
        """Everything that stands still, in plain words. Empty: the watchdog may be fed."""
        return (*self._stalled_loops(now), *self._stalled_link(now))

    def _stalled_loops(self, now: float) -> list[str]:
        faults = []
        for loop, bound_s in self._bounds_s.items():
            since = self._turned.get(loop, self._first_due)
            if now - since > bound_s:
                faults.append(f"the {loop} loop has not turned for {now - since:.0f} s (bound {bound_s:.0f} s)")
        return faults

    def _stalled_link(self, now: float) -> list[str]:
        signs = [sign for sign in (self._answered, self._tried) if sign is not None]
        silence_s = now - max(signs, default=self._first_due)
        if silence_s <= self._link_silence_s:
            return []
        return [f"the link has neither heard from the coordinator nor tried to reach it for {silence_s:.0f} s"]
