"""A clock that a test moves by hand."""

from __future__ import annotations

import asyncio

from tests.patience import PATIENCE_S


class ManualClock:
    """Implements `ports.Clock`; time stands still until `advance`."""

    def __init__(self, now: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = now
        self._wall = wall
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._slept = asyncio.Condition()

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        self._sleepers.append((self._now + seconds, woken))
        async with self._slept:
            self._slept.notify_all()
        try:
            await woken.wait()
        finally:
            self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[1] is not woken]

    def advance(self, seconds: float) -> None:
        """Move on, and wake whoever slept until then."""
        self._now += seconds
        self._wall += seconds
        for until, woken in self._sleepers:
            if until <= self._now:
                woken.set()

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._wall += seconds

    async def somebody_sleeps(self, count: int = 1) -> None:
        """Wait until so many sleep."""
        async with self._slept, asyncio.timeout(PATIENCE_S):
            await self._slept.wait_for(lambda: len(self._sleepers) >= count)
