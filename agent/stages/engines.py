"""Engines that may be laid to rest: stopped while the owner wants his GPU's memory, and started again after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from agent.core.fingerprint import Pool


class Supervised(Protocol):
    """What is left of a pool when nobody asks it for work."""

    @property
    def facts(self) -> Pool: ...
    async def run(self, changed: Callable[[], None]) -> None:
        """Until cancelled; nothing of the engine is left then."""
        ...


class Engine:
    """One pool's engine."""

    def __init__(self, pool: Supervised) -> None:
        self._pool = pool
        self._why = ""
        self._asked = asyncio.Event()
        """Set when `rest` or `wake` changed what is wanted."""
        self.at_rest = False
        """It has ended, as it was told to."""

    @property
    def facts(self) -> Pool:
        """The pool's, which is not ready while its engine is being stopped or at rest."""
        facts = self._pool.facts
        return replace(facts, ready=False, detail=self._why) if self._why or self.at_rest else facts

    @property
    def wanted_at_rest(self) -> bool:
        """Whether it was told to end."""
        return bool(self._why)

    def rest(self, why: str) -> None:
        """End the engine; `why` is shown as the pool's detail."""
        self._why = why
        self._asked.set()

    def wake(self) -> None:
        """Start it again."""
        self._why = ""
        self._asked.set()

    async def run(self, changed: Callable[[], None]) -> None:
        """Run the engine until cancelled, but for the times at which it is to rest; `changed` as a pool's."""
        while True:
            self._asked.clear()
            if self._why:
                self.at_rest = True
                changed()
                await self._asked.wait()
            else:
                self.at_rest = False
                await self._awake(changed)

    async def _awake(self, changed: Callable[[], None]) -> None:
        running, asked = asyncio.ensure_future(self._pool.run(changed)), asyncio.ensure_future(self._asked.wait())
        try:
            while not self._why:
                await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    return running.result()
                if not self._why:  # woken before it slept
                    self._asked.clear()
                    asked = asyncio.ensure_future(self._asked.wait())
            changed()
        finally:
            running.cancel()
            asked.cancel()
            await asyncio.gather(running, asked, return_exceptions=True)
