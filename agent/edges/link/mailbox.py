"""What the coordinator sent unasked, waiting to be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from agent.core import wire

CAPACITY = 1024
"""A node runs some tens of attempts; more unread pushes than this are a flood."""


class Mailbox:
    """A bounded queue that can end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[wire.Push | None] = asyncio.Queue()

    def put(self, push: wire.Push) -> bool:
        """False when it is full; then `push` is not kept."""
        if self._queue.qsize() >= CAPACITY:
            return False
        self._queue.put_nowait(push)
        return True

    def close(self) -> None:
        """Readers end after what is already here."""
        self._queue.put_nowait(None)

    async def read(self) -> AsyncIterator[wire.Push]:
        """Pushes in order, until the mailbox is closed."""
        while (push := await self._queue.get()) is not None:
            yield push
        self._queue.put_nowait(None)  # for the next reader
