"""The real clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Implements `ports.Clock`. `monotonic` counts on while the machine is suspended, as leases expire then too."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never runs backwards."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Unix seconds; may jump."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Give way to other tasks for `seconds`."""
        await asyncio.sleep(seconds)
