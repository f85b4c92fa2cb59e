"""Deletes exhibits that no case needs any more."""

from __future__ import annotations

import contextlib

from agent.core.errors import StorageError
from agent.devnet.case_store import spent, unnamed
from agent.devnet.core.proofs import sweeping
from agent.devnet.core.rules import Refused
from agent.devnet.desk import Clock, Desk

LOOK_EVERY_S = 60.0
AT_ONCE = 100
"""Cases in one transaction."""


class Tidier:
    """Runs beside the desk. What it did not come to is deleted at the next start."""

    def __init__(self, desk: Desk, clock: Clock) -> None:
        self._desk = desk
        self._clock = clock

    async def run(self) -> None:
        """Until it is cancelled, or nothing may be decided any more."""
        with contextlib.suppress(Refused, StorageError):  # it stops, or its store failed
            while True:
                await self.tidy()
                await self._clock.sleep(LOOK_EVERY_S)

    async def tidy(self) -> None:
        """Judged cases whose time is over let go of their exhibits; what nobody names goes. Raises Refused,
        StorageError.
        """
        desk = self._desk
        until = desk.when().at - int(desk.book.rules.proofs.keep_s)
        while old := await desk.store.read(spent(until, AT_ONCE)):
            await desk.carry_out(sweeping.discard(desk.book, desk.when(), old))
        while not desk.discarded.empty():
            # Two cases may have the same leaves: the same prompt and seed draw the same tokens. While the database is
            # asked one may be judged, and move from memory into it, or a new one come.
            idle = [it for it in desk.discarded.get_nowait() if not desk.book.docket.names(it)]
            gone = await desk.store.read(unnamed(idle))
            desk.exhibits.discard(it for it in gone if not desk.book.docket.names(it))
