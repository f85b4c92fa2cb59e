"""The real clock keeps what the stages rely on."""

from __future__ import annotations

import time

from agent.edges.clock import SystemClock
from agent.ports import Clock


async def test_sleeping_moves_the_monotonic_clock_by_at_least_that_long() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.02)
    assert clock.monotonic() - before >= 0.02


def test_monotonic_time_counts_suspension_and_wall_time_is_unix_time() -> None:
    before = (time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
    clock = SystemClock()
    now = (clock.monotonic(), clock.wall())
    after = (time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
    assert before <= now <= after
    assert before[1] <= now[1] <= after[1]
