"""What is remembered of challenges and judgements, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core import wire
from agent.core.challenges import ChallengeLine, ProofStory, ProofTotals
from agent.core.errors import StorageError
from agent.core.model import Signed


class PaperProofs:
    """Implements ports.Proofs."""

    def __init__(self) -> None:
        self.lines: dict[str, ChallengeLine] = {}
        self.judgements: list[wire.JudgementBody] = []
        self.full = False

    @property
    def totals(self) -> ProofTotals:
        return ProofTotals(serial=len(self.judgements))

    async def note(self, lines: Sequence[ChallengeLine]) -> ProofTotals:
        self._check_room()
        self.lines.update({line.challenge_id: line for line in lines})
        return self.totals

    async def keep(self, judgement: Signed, body: wire.JudgementBody) -> ProofTotals:
        assert judgement.payload
        self._check_room()
        if body.serial == len(self.judgements) + 1:
            self.judgements.append(body)
        return self.totals

    async def recall(self, now: float) -> tuple[ProofTotals, Sequence[ChallengeLine]]:
        return self.totals, [line for line in self.lines.values() if line.answered_at is None and line.due_at > now]

    async def story(self, limit: int) -> ProofStory:
        return ProofStory(totals=self.totals, challenges=tuple(self.lines.values())[:limit])

    def _check_room(self) -> None:
        if self.full:
            raise StorageError("no space left", full=True, remedy="Make room")
