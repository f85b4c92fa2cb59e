"""A pool whose attempts keep failing by its own fault stops taking tasks for a while, then tries one.

    CLOSED ──N failures in a row──▶ OPEN ──the wait is over──▶ TRYING ──success──▶ CLOSED
                                     ▲                            │
                                     └──── failure, twice the wait ┘

A broken node that answers fast would otherwise draw task after task and fail each: requesters pay with time, and
the owner with the node's standing.
"""

from __future__ import annotations

from enum import StrEnum

from agent.core.model import Outcome, Reason

FIRST_WAIT_S = 30.0
"""Longer than an engine's restart, shorter than an owner's patience."""
LONGEST_WAIT_S = 600.0
OWN_FAULTS = frozenset(
    {
        Reason.ENGINE_CRASHED,
        Reason.ENGINE_UNAVAILABLE,
        Reason.ENGINE_GARBAGE,
        Reason.PROOF_FAILED,
        Reason.STORAGE_FULL,
        Reason.INTERNAL,
    }
)
"""What the node answers for. A task that the engine refuses, a cancel or a lost lease says nothing about the node."""


class BreakerState(StrEnum):
    """What the breaker lets through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing, until `retry_at`."""
    TRYING = "trying"
    """One task at a time."""


class Breaker:
    """The breaker of one pool. All times are monotonic seconds."""

    def __init__(self, limit: int) -> None:
        """`limit`: failures in a row that open it, at least 1."""
        self._limit = limit
        self.failures = 0
        """In a row; those that ended while it was open do not count."""
        self.last: Reason | None = None
        self.retry_at: float | None = None

    @property
    def state(self) -> BreakerState:
        """Read from the count, so that the two cannot disagree."""
        if self.retry_at is not None:
            return BreakerState.OPEN
        return BreakerState.CLOSED if self.failures < self._limit else BreakerState.TRYING

    def room(self, free: int, busy: int) -> int:
        """How many of `free` slots may be filled while `busy` are taken."""
        match self.state:
            case BreakerState.CLOSED:
                return free
            case BreakerState.OPEN:
                return 0
            case BreakerState.TRYING:
                return min(free, max(0, 1 - busy))

    def ended(self, outcome: Outcome, reason: Reason | None, now: float) -> None:
        """An attempt ended."""
        if outcome is Outcome.SUCCEEDED:  # also one that began before: the pool works
            self.failures, self.retry_at = 0, None
        elif reason in OWN_FAULTS and self.state is not BreakerState.OPEN:
            self.failures, self.last = self.failures + 1, reason
            if self.failures >= self._limit:
                self.retry_at = now + self._wait_s()

    def tick(self, now: float) -> None:
        """Let one task through once the wait is over."""
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None

    def limit(self, failures: int) -> None:
        """Another limit from now on; a wait that has begun stays as long as it is."""
        self._limit = failures

    def retry(self) -> None:
        """The owner says that it is mended: try at once."""
        self.retry_at = None

    def tell(self, now: float | None = None) -> str:
        """In words; empty while closed. With `now`, how long the wait still is."""
        if self.state is BreakerState.CLOSED:
            return ""
        told = f"{self.failures} tasks in a row failed here (last: {self.last})"
        if self.retry_at is None:
            return f"{told}; one is being tried"
        left_s = self._wait_s() if now is None else max(0.0, self.retry_at - now)
        return f"{told}; one is tried in {left_s:.0f} s, or after `gpu-agent resume`"

    def _wait_s(self) -> float:
        doublings = min(max(self.failures - self._limit, 0), 16)  # far beyond the cap; keeps the power small
        return min(FIRST_WAIT_S * (1 << doublings), LONGEST_WAIT_S)
