"""How long we may act under a lease, on our own clock.

The coordinator counts a lease from when it answered; we count from when we asked, which is earlier, and stop a
margin before the end. So our right always ends before the coordinator may give the task to somebody else,
whatever the delay of the answer was: a partitioned node fences itself (protocol.md).
"""

from __future__ import annotations

MARGIN_FRACTION = 0.10
MARGIN_MIN_S = 2.0
USEFUL_MIN_S = 1.0
"""A lease that leaves less than this after the margin is not worth starting."""
LEASE_MAX_S = 3600.0
"""A longer promise is cut: nobody can vouch for an hour."""


def margin_s(lease_s: float) -> float:
    """How much earlier than the coordinator we stop: 10 %, at least 2 s (clock drift, kill time, scheduling)."""
    return max(lease_s * MARGIN_FRACTION, MARGIN_MIN_S)


def local_deadline(asked_at: float, lease_s: float) -> float:
    """Monotonic time after which we must not act, for a lease asked for at monotonic `asked_at`."""
    lease_s = min(lease_s, LEASE_MAX_S)
    return asked_at + lease_s - margin_s(lease_s)


def long_enough(lease_s: float) -> bool:
    """Whether a lease leaves time for any work at all."""
    return lease_s - margin_s(lease_s) >= USEFUL_MIN_S
