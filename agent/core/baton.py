"""Stream or poll: which transport a call takes, and when the stream is tried again. Pure.

The stream is preferred. When it cannot be opened, or breaks soon after it was, the node polls, and tries the
stream in the background ever more rarely. A stream that ran well for a while has a loss forgiven: the next call
opens it again at once. When the coordinator was gone altogether, its return is a reason to try at once, too.
"""

from __future__ import annotations

from enum import StrEnum

from agent.core.model import Value

STEADY_S = 60.0
"""A stream that ran this long was well: six beats went through it."""
FIRST_PROBE_S = 5.0
LAST_PROBE_S = 300.0
"""Where a proxy never lets a WebSocket through, one try in five minutes costs nothing."""
SPREAD = 0.2
"""Share by which a delay is lengthened at random, so that a fleet does not come back in step."""


class Transport(StrEnum):
    """How a call reaches the coordinator."""

    STREAM = "websocket"
    POLL = "poll"


class Baton(Value):
    """Who carries the calls now, and why. Every function below returns the next one; times are monotonic seconds."""

    transport: Transport = Transport.STREAM
    why: str = "preferred"
    strikes: int = 0
    """Failures of the stream since it last ran steadily."""
    well_since: float | None = None
    """When the stream first worked again; None while it is not known to work."""
    probe_at: float = 0.0
    """While polling: when the stream is tried next."""


def stream_worked(baton: Baton, now: float) -> Baton:
    """The stream was opened, or answered: it carries the calls. The same object when nothing changed."""
    if baton.transport is Transport.STREAM and baton.well_since is not None:
        return baton
    why = "preferred" if baton.strikes == 0 else "well again"
    return Baton(why=why, strikes=baton.strikes, well_since=now)


def stream_failed(baton: Baton, now: float, why: str, chance: float) -> Baton:
    """The stream could not be opened, or broke. `chance` in [0, 1) spreads the next try."""
    if baton.well_since is not None and now - baton.well_since >= STEADY_S:
        return Baton(why=why)
    strikes = baton.strikes + 1
    delay = probe_delay_s(strikes, chance)
    return Baton(transport=Transport.POLL, why=why, strikes=strikes, probe_at=now + delay)


def poll_recovered(baton: Baton, now: float) -> Baton:
    """Polling works again after it had failed: the coordinator was gone, so the stream was not to blame."""
    if baton.transport is Transport.STREAM:
        return baton
    return Baton(transport=Transport.POLL, why=baton.why, strikes=1, probe_at=now)


def probe_delay_s(strikes: int, chance: float) -> float:
    """Doubles from FIRST_PROBE_S to LAST_PROBE_S, lengthened by up to SPREAD."""
    doublings = min(strikes - 1, 16)  # 2^16 is far past the cap; more would only grow the integer
    return min(FIRST_PROBE_S * (1 << doublings), LAST_PROBE_S) * (1 + SPREAD * chance)
