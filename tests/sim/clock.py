"""A machine's clocks: monotonic ones drift, wall clocks jump."""

from __future__ import annotations

import asyncio


class SimClock:
    """Implements ports.Clock over virtual time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, drift: float = 0.0, offset: float = 0.0) -> None:
        self._loop = loop
        self._rate = 1.0 + drift
        self._offset = offset
        self.wall_offset = 1_700_000_000.0

    def monotonic(self) -> float:
        return self._offset + self._loop.time() * self._rate

    def wall(self) -> float:
        return self.wall_offset + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._rate)

    def virtual(self, monotonic: float) -> float:
        """The loop's time at which this clock shows `monotonic`."""
        return (monotonic - self._offset) / self._rate
