"""The docket: what is remembered of challenges, on the disk as soon as that takes it; nothing waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from agent.core import wire
from agent.core.challenges import ChallengeLine, ChallengeOutcome, ProofStory, ProofTotals
from agent.core.errors import StorageError
from agent.core.model import Signed
from agent.ports import Clock, Proofs
from agent.stages.storage import RETRY_S

UNKEPT_MAX = 4096
"""Lines that wait for a disk that takes nothing; further ones are in the log alone."""


class Docket:
    """Writes lines down in the background, the latest of each challenge."""

    def __init__(self, proofs: Proofs, clock: Clock) -> None:
        self._proofs = proofs
        self._clock = clock
        self._unkept: dict[str, ChallengeLine] = {}
        self._news = asyncio.Event()
        self._log = structlog.get_logger("proof")
        self.totals = ProofTotals()

    async def recall(self) -> Sequence[ChallengeLine]:
        """What an earlier life of this agent was still asked for."""
        try:
            self.totals, asked = await self._proofs.recall(self._clock.wall())
        except StorageError as error:  # what it counts is for people: it keeps no node from working
            self._log.error("proofs.unreadable", detail=str(error))
            return ()
        return asked

    def note(self, line: ChallengeLine) -> None:
        """Remember `line` in place of what was there of this challenge."""
        if line.outcome is ChallengeOutcome.ASKED and line.challenge_id in self._unkept:
            return  # asked again: what was answered stays so
        if line.challenge_id in self._unkept or len(self._unkept) < UNKEPT_MAX:
            self._unkept[line.challenge_id] = line
        self._news.set()

    async def keep(self, judgement: Signed, body: wire.JudgementBody) -> bool:
        """Whether it is kept, and durable; False when one before it is not. Raises StorageError."""
        self.totals = await self._proofs.keep(judgement, body)
        return self.totals.serial >= body.serial

    async def story(self, limit: int) -> ProofStory:
        """The newest, also what the disk has not taken yet. Raises StorageError."""
        told = await self._proofs.story(limit)
        fresh = [*reversed(self._unkept.values())]
        known = {line.challenge_id for line in fresh}
        lines = (*fresh, *(line for line in told.challenges if line.challenge_id not in known))
        return ProofStory(totals=told.totals, challenges=lines[:limit], judgements=told.judgements)

    async def run(self) -> None:
        """Run until cancelled."""
        told = False
        while True:
            await self._news.wait()
            self._news.clear()
            lines = tuple(self._unkept.values())
            try:
                self.totals = await self._proofs.note(lines)
            except StorageError as error:
                if not told:
                    self._log.error("proofs.unwritable", full=error.full, detail=str(error))
                told = True
                await self._clock.sleep(RETRY_S)
                self._news.set()
                continue
            told = False
            for line in lines:
                if self._unkept.get(line.challenge_id) is line:
                    del self._unkept[line.challenge_id]
