"""Fetches the rounds of drand that results wait for."""

from __future__ import annotations

import logging

from agent.core.errors import ProofError
from agent.core.proof.drand import QUICKNET
from agent.devnet.beacons import DrandRelays
from agent.devnet.core.proofs import epochs, sweeping
from agent.devnet.core.rules import Refused
from agent.devnet.desk import Clock, Desk

logger = logging.getLogger(__name__)


async def fetch_awaited(desk: Desk, relays: DrandRelays, clock: Clock) -> None:
    """Until it is cancelled, or nothing may be decided any more. A round that no relay gives holds up no other."""
    while True:
        try:
            for number in epochs.awaited(desk.book, desk.when()):
                await _fetch(desk, relays, number)
        except Refused:
            return  # it stops, or its store failed
        await clock.sleep(QUICKNET.period_s)


async def _fetch(desk: Desk, relays: DrandRelays, number: int) -> None:
    try:
        beacon = await relays.fetch(number)
    except ProofError as error:
        logger.warning("beacon.late round=%d %s", number, error.message)
        return
    await desk.carry_out(sweeping.beacon(desk.book, desk.when(), beacon))
