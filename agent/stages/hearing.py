"""The hearing: challenges come in, leaves go out, judgements come back, and all of it is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agent.core import wire
from agent.core.proof.challenged import Kept
from agent.ports import Clock, Identity, Ledger, Proofs, Transcripts
from agent.stages.calls import Caller
from agent.stages.docket import Docket
from agent.stages.judgements import Judgements
from agent.stages.opening import Opener


class Hearing:
    """Three loops that share a docket."""

    def __init__(
        self,
        clock: Clock,
        caller: Caller,
        identity: Identity,
        ledger: Ledger,
        transcripts: Transcripts,
        proofs: Proofs,
        kept: Kept,
    ) -> None:
        """`kept`: raises ProofError for a beacon that was not promised."""
        self.docket = docket = Docket(proofs, clock)
        self._opener = Opener(clock, caller, ledger, transcripts, docket, kept)
        self._judgements = Judgements(identity, docket)

    @property
    def judged(self) -> int:
        """Serial of the latest judgement that is kept: what a beat tells."""
        return self.docket.totals.serial

    async def recall(self) -> None:
        """Learn what an earlier life was asked for. Before anything is swept."""
        await self._opener.recall()

    def heard(self, ack: wire.BeatAck) -> None:
        """What the answer to a beat brings. Returns at once."""
        self._opener.take(ack.challenges)
        self._judgements.take(ack.judged)

    def challenged(self, challenges: Sequence[wire.Challenge]) -> None:
        """Pushed. Returns at once."""
        self._opener.take(challenges)

    def swept_until(self, now: float) -> float:
        """By when transcripts must have passed their time to be deleted at `now`; Unix seconds."""
        return self._opener.swept_until(now)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._opener.run(), name="openings")
            group.create_task(self._judgements.run(), name="judgements")
            group.create_task(self.docket.run(), name="docket")
