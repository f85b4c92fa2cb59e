"""How long a test waits for what must come: one time for all, which only a hang takes, on a machine however busy.

No test measures how fast something is. pytest's own limit for a test (`timeout` in pyproject.toml) is longer: it ends a
test wherever it stands, and clears nothing up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

PATIENCE_S = 90.0
_T = TypeVar("_T")


async def within(awaited: Awaitable[_T]) -> _T:
    """Its result; raises TimeoutError when it hangs."""
    return await asyncio.wait_for(awaited, PATIENCE_S)


async def until(holds: Callable[[], object]) -> None:
    """Until something of the world is so that nobody tells; raises TimeoutError when it never is."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)
