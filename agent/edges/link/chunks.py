"""Streamed text over plain requests: in order, one at a time, and never in the engine's way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from agent.core import wire
from agent.core.errors import LinkError, LinkFault

_BACKLOG = 256
"""Five seconds of chunks at one in 20 ms; what is older is of no use to somebody who watches."""


class Chunks:
    """Sends what is added from a task that lives only while there is something to send."""

    def __init__(self, send: Callable[[wire.Chunk], Awaitable[None]]) -> None:
        self._send = send
        self._backlog: deque[wire.Chunk] = deque(maxlen=_BACKLOG)
        self._task: asyncio.Task[None] | None = None

    def add(self, chunk: wire.Chunk) -> None:
        """Queue; the oldest is forgotten when the backlog is full (its index is then missing)."""
        self._backlog.append(chunk)
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="link-chunks")

    async def settled(self, limit_s: float) -> None:
        """Wait until everything queued was sent, `limit_s` at most."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=limit_s)

    async def close(self) -> None:
        """Forget what is queued and stop."""
        self._backlog.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        try:
            while self._backlog:
                await self._deliver(self._backlog.popleft())
        finally:
            self._task = None

    async def _deliver(self, chunk: wire.Chunk) -> None:
        try:
            await self._send(chunk)
        except LinkError as error:  # lossy by contract: the result carries the whole text
            if error.fault is not LinkFault.REFUSED:
                self._backlog.clear()  # the line is down; each of these would wait for it in vain
