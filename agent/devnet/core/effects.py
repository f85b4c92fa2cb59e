"""What a decision asks of the shell: writes, durable before the reply leaves, then notices, after they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.core.model import ExecInput, LeaseKey, Value
from agent.core.program import blobs_of
from agent.core.wire import Offers, Push
from agent.devnet.core.proofs.records import Case, Epoch, Judged, Standing
from agent.devnet.core.records import (
    Demand,
    Episode,
    LedgerLine,
    NodeRecord,
    Progress,
    Settlement,
    TaskState,
    UsedToken,
)


class SaveDemand(Value):
    """A new task."""

    demand: Demand


class SaveProgress(Value):
    """A task moved."""

    task_id: str
    fence: int
    """The highest fence ever granted, whoever got it."""
    progress: Progress


class SaveSettlement(Value):
    """A result was accepted."""

    settlement: Settlement


class SaveLedgerLine(Value):
    """A result earned something."""

    line: LedgerLine


class SaveNode(Value):
    """A node enrolled, or its directives changed."""

    record: NodeRecord


class SaveToken(Value):
    """A token was made or used up."""

    token: UsedToken


class SaveEpoch(Value):
    """A secret was promised for the first time, or told."""

    epoch: Epoch


class SaveCase(Value):
    """A result is under examination, or that went a step further."""

    case: Case


class DropCase(Value):
    """A result was not drawn after all."""

    case_id: str


class SaveStanding(Value):
    """A node's record changed."""

    standing: Standing


class SaveJudged(Value):
    """A judgement was signed."""

    judged: Judged


ProofWrite = SaveEpoch | SaveCase | DropCase | SaveStanding | SaveJudged
Write = SaveDemand | SaveProgress | SaveSettlement | SaveLedgerLine | SaveNode | SaveToken | ProofWrite


def blobs_named(write: Write) -> tuple[str, ...]:
    """Digests of blobs that are kept from now on."""
    match write:
        case SaveSettlement(settlement=it):
            return tuple(filter(None, (it.blob, it.artifact.sha256 if it.artifact else None)))
        case SaveDemand(demand=demand) if isinstance(demand.spec.input, ExecInput):
            return tuple(blobs_of(demand.spec.input))
        case _:
            return ()


class Granted(Value):
    """Answers a parked pull."""

    pull_id: int
    offers: Offers


class PushTo(Value):
    """For a node that has a stream open; the others hear it with their next beat."""

    node_id: str
    push: Push


class Moved(Value):
    """For whoever follows the task."""

    task_id: str
    state: TaskState
    key: LeaseKey | None
    node_id: str = ""
    detail: str = ""
    episode: Episode | None = None
    """The attempt that ended just now, if one did."""


class Examine(Value):
    """An opening is here: somebody with time is to look at it (`proofs.opening.examined`)."""

    case_id: str


class Discard(Value):
    """Exhibits that a case named and does not any more: they go, unless another names them."""

    sha256s: tuple[str, ...]


Notice = Granted | PushTo | Moved | Examine | Discard

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Decision(Generic[R]):
    """One event's outcome. The writes of one decision are one transaction."""

    reply: R
    writes: tuple[Write, ...] = ()
    notices: tuple[Notice, ...] = ()
