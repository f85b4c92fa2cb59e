"""Wall time that nobody sets: what is deleted when its time is over must not go because a clock was put right."""

from __future__ import annotations

from agent.ports import Clock


class Lifetime:
    """Unix seconds as they were at the start of this life, and what passed since."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s = clock.wall() - clock.monotonic()

    def now(self) -> float:
        """Unix seconds; never jumps."""
        return self._clock.monotonic() + self._ahead_s
