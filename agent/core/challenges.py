"""What a node remembers of its challenges, and of how it was judged: for `gpu-agent proofs`, status and metrics."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.core.model import Value
from agent.core.payloads import Judgement, JudgementBody, Subject
from agent.core.wire import ChallengeKind, OpeningRefusal


class ChallengeOutcome(StrEnum):
    """What the node did about a challenge."""

    ASKED = "asked"
    """It is being answered."""
    OPENED = "opened"
    """The coordinator has the leaves."""
    REFUSED = "refused"
    """The coordinator was told why there are none."""
    MISSED = "missed"
    """The time was over before the coordinator took an answer."""


class ChallengeLine(Value):
    """One challenge."""

    challenge_id: str
    task_id: str
    attempt: int
    fence: int
    kind: ChallengeKind
    asked_at: float
    """Unix seconds, ours, as are the others."""
    due_at: float
    outcome: ChallengeOutcome = ChallengeOutcome.ASKED
    leaves: int = 0
    """How many were asked for; 0: all."""
    level: int = 0
    refusal: OpeningRefusal | None = None
    detail: str = ""
    opened_bytes: int = 0
    answered_at: float | None = None


class Judged(Value):
    """How many judgements of one sort there were."""

    subject: Subject
    judgement: Judgement
    count: int


class ProofTotals(Value):
    """Of all lives of the node, as long as its store is sound."""

    challenges: dict[ChallengeOutcome, int] = msgspec.field(default_factory=dict)
    judgements: tuple[Judged, ...] = ()
    serial: int = 0
    """Of the latest judgement that is kept."""
    stake_micros: int | None = None
    """What the latest judgement left of the stake; None before the first."""
    slashed_micros: int = 0
    earned_micros: int = 0
    """By verdicts, in `currency`."""
    currency: str = ""
    barred: bool = False
    """By the latest judgement it gets no checks, for a while or for good."""

    @property
    def challenged(self) -> int:
        """All challenges, whatever became of them."""
        return sum(self.challenges.values())

    def judged(self, subject: Subject, judgement: Judgement) -> int:
        """How many there were of this sort."""
        found = (it.count for it in self.judgements if (it.subject, it.judgement) == (subject, judgement))
        return next(found, 0)


class ProofStory(Value):
    """What `gpu-agent proofs` shows; both lists newest first."""

    totals: ProofTotals = ProofTotals()
    challenges: tuple[ChallengeLine, ...] = ()
    judgements: tuple[JudgementBody, ...] = ()
