"""Runs every check by itself: one that breaks or hangs never hides the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from agent.core.doctor import Finding
from agent.core.judgements import broken

LIMIT_S = 40.0
"""Above the slowest honest check: a driver that opens without persistence mode takes up to 30 s."""

Look = Callable[[], Awaitable[Finding | Sequence[Finding]]]
"""One check; some yield several findings."""


def local(read: Callable[[], Finding]) -> Look:
    """A check that only reads files: in a thread, since a disk may hang."""

    async def look() -> Finding:
        return await asyncio.to_thread(read)

    return look


async def examine(looks: Sequence[tuple[str, Look]], limit_s: float = LIMIT_S) -> list[Finding]:
    """Findings in the order of `looks` (id, check), which run at the same time."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_isolated(id_, look, limit_s)) for id_, look in looks]
    return [finding for task in tasks for finding in task.result()]


async def _isolated(id_: str, look: Look, limit_s: float) -> list[Finding]:
    try:
        async with asyncio.timeout(limit_s):
            found = await look()
    except TimeoutError:
        return [broken(id_, f"no answer within {limit_s:g} s")]
    except Exception as fault:  # noqa: BLE001  (a report with one broken line is worth more than a traceback)
        return [broken(id_, f"{type(fault).__name__}: {fault}")]
    return [found] if isinstance(found, Finding) else list(found)
