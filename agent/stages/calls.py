"""Typed replies and patient retries, for every stage that talks to the coordinator."""

from __future__ import annotations

import random
from typing import TypeVar

from agent.core import wire
from agent.core.backoff import CAP_S, after_failure
from agent.core.errors import LinkError, LinkFault
from agent.core.watchdog import Pulse
from agent.ports import Clock, Link

D = TypeVar("D", bound=wire.Down)

PASSING = frozenset(
    {
        wire.RefusalCode.BUSY,
        wire.RefusalCode.INTERNAL,
        wire.RefusalCode.SESSION_EXPIRED,
        wire.RefusalCode.REPLAYED,
    }
)
"""Refusals that say nothing about the message: the same one may be taken later."""


def passes(error: LinkError) -> bool:
    """Whether the same message may succeed later."""
    return error.fault is not LinkFault.REFUSED or error.code in PASSING


class Caller:
    """The link as the stages use it: replies are checked for their kind, and signs of life are noted."""

    def __init__(self, link: Link, clock: Clock, pulse: Pulse, rng: random.Random) -> None:
        self.link = link
        self._clock = clock
        self._pulse = pulse
        self._rng = rng

    async def ask(self, message: wire.UpMessage, expected: type[D]) -> D:
        """One call. Raises LinkError; a reply of another kind is BROKEN."""
        try:
            reply = await self.link.call(message)
        except LinkError as error:
            note = self._pulse.answered if error.fault is LinkFault.REFUSED else self._pulse.tried
            note(self._clock.monotonic())
            raise
        self._pulse.answered(self._clock.monotonic())
        if not isinstance(reply, expected):
            raise LinkError(
                LinkFault.BROKEN, f"asked {type(message).__name__}, answered {type(reply).__name__}: not the protocol"
            )
        return reply

    async def back_off(self, failures: int, error: LinkError, *, cap_s: float = CAP_S) -> None:
        """Wait before retry number `failures` (0 is the first)."""
        await self._clock.sleep(self.pause_s(failures, error, cap_s=cap_s))

    def pause_s(self, failures: int, error: LinkError, *, cap_s: float = CAP_S) -> float:
        """How long to wait before retry number `failures`."""
        return after_failure(failures, self._rng.random(), error.retry_after_s, cap_s=cap_s)
