"""Asks drand how far it is, so that no promise names a public round, and fetches the rounds that results wait for."""

from __future__ import annotations

import logging

from agent.core.errors import ProofError
from agent.core.proof.drand import QUICKNET
from agent.devnet.beacons import DrandRelays
from agent.devnet.core.proofs import epochs, sweeping
from agent.devnet.core.rules import Refused
from agent.devnet.desk import Clock, Desk

LOOK_EVERY_S = 60.0
"""Between two looks the monotonic clock counts on."""
logger = logging.getLogger(__name__)


class Drawing:
    """One chain of drand, for as long as the coordinator runs."""

    def __init__(self, desk: Desk, relays: DrandRelays, clock: Clock) -> None:
        self._desk = desk
        self._relays = relays
        self._clock = clock
        self._looked: float | None = None
        """Monotonic time at which a relay last told how far drand is."""
        self._warned: float | None = None
        """And at which it was last logged that none does."""

    async def run(self) -> None:
        """Until it is cancelled, or nothing may be decided any more. A round that no relay gives holds up no other."""
        while True:
            try:
                await self.look()
                for number in epochs.awaited(self._desk.book, self._desk.when()):
                    await self._fetch(number)
            except Refused:
                return  # it stops, or its store failed
            await self._clock.sleep(QUICKNET.period_s)

    async def look(self) -> None:
        """How far is drand? While nobody tells, results are drawn by epochs. Raises Refused."""
        now = self._clock.monotonic()
        if self._looked is not None and now - self._looked < LOOK_EVERY_S:
            return
        try:
            latest = await self._relays.latest()
        except ProofError as error:
            self._warn(error, now)
            return
        self._looked = now
        late_s = QUICKNET.time_of(latest.round) - self._clock.wall()
        if late_s > QUICKNET.period_s:
            logger.warning("clock.late %.0f s behind drand; promises are made by drand's time: set the clock", late_s)
        await self._desk.carry_out(sweeping.beacon(self._desk.book, self._desk.when(), latest))

    def _warn(self, error: ProofError, now: float) -> None:
        """Once a minute: they are asked every few seconds."""
        if self._warned is None or now - self._warned >= LOOK_EVERY_S:
            self._warned = now
            meanwhile = "epochs draw until one does; " if self._looked is None else ""
            logger.warning("beacon.unknown %s%s", meanwhile, error.message)

    async def _fetch(self, number: int) -> None:
        try:
            beacon = await self._relays.fetch(number)
        except ProofError as error:
            logger.warning("beacon.late round=%d %s", number, error.message)
            return
        await self._desk.carry_out(sweeping.beacon(self._desk.book, self._desk.when(), beacon))
