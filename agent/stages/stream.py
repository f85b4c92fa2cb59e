"""Stream: send token chunks beside the generation. Lossy by contract: the final result is authoritative."""

from __future__ import annotations

import asyncio

import structlog

from agent.core import wire
from agent.core.errors import LinkError
from agent.ports import Link
from agent.stages.spine import Mailbox

WAITING_MAX = 64
"""Chunks that wait for the wire, of all attempts. At 20 ms a chunk that is over a second of a slow link."""


class Stream:
    """A bounded queue before the link: a slow or broken link loses chunks and never slows an engine."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting = Mailbox(WAITING_MAX)
        self.tally = self._waiting.tally
        self._log = structlog.get_logger("stream")
        self.dropped = 0

    def send(self, chunk: wire.Chunk) -> None:
        """Queue a chunk, or drop it when the link is behind; `index` shows the gap."""
        try:
            self._waiting.put_nowait(chunk)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            chunk: wire.Chunk = await self._waiting.get()
            try:
                await self._link.post(chunk)
            except LinkError as error:
                self.dropped += 1
                self._log.debug("chunk.dropped", task=chunk.key.task_id, detail=error.message)
