"""What the coordinator remembers. Frozen values are what the store writes; `Task` and `Node` are the live views."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.attest.messages import Attestation
from agent.core.fingerprint import Fingerprint, Pool
from agent.core.model import Blob, LeaseKey, Outcome, Reason, Signed, TaskSpec, Usage, Value
from agent.core.wire import Directive, PoolLoad, ReceiptBody
from agent.devnet.core.queue import Line


class TaskState(StrEnum):
    """Where a task is."""

    QUEUED = "queued"
    LEASED = "leased"
    SETTLED = "settled"
    CANCELLED = "cancelled"
    FAILED = "failed"


ENDED = frozenset({TaskState.SETTLED, TaskState.CANCELLED, TaskState.FAILED})


class Demand(Value):
    """What a requester asked for. Written once, never changed."""

    number: int
    """Rises with every task: the place in the queue, also after a requeue."""
    spec: TaskSpec
    nonce: str
    deadline_ms: int
    submitted_at: int
    request_key: str = ""
    """Chosen by the requester: the same key names the same task, so that a lost reply is no second task."""


class Lease(Value):
    """One grant of a task to a node."""

    key: LeaseKey
    node_id: str
    pool: str
    idem_key: str
    offer: Signed


UNHARMED = frozenset({Outcome.HANDED_BACK, Outcome.DECLINED})
"""Endings that say nothing against the task and cost it no attempt."""


class Episode(Value):
    """How one attempt ended; all of them are the task's story."""

    attempt: int
    node_id: str
    outcome: Outcome
    reason: Reason
    detail: str
    ended_at: int


MAX_STORY = 32
"""Latest episodes of a task that are kept: every move writes them all."""


class Progress(Value):
    """How far a task is."""

    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    failures: int = 0
    """Attempts that count against `max_attempts`."""
    lease: Lease | None = None
    """The latest lease. Live exactly when `state` is LEASED."""
    story: tuple[Episode, ...] = ()
    settled_by: str = ""
    """The idempotency key of the result that settled it."""
    detail: str = ""
    """Why it failed or was cancelled, in plain words."""

    def story_with(self, episode: Episode) -> tuple[Episode, ...]:
        """The story after one more attempt."""
        return (*self.story, episode)[-MAX_STORY:]

    def returns_of(self, node_id: str) -> int:
        """How often, of late, a node gave it back unharmed."""
        return sum(it.node_id == node_id and it.outcome in UNHARMED for it in self.story)


class Settlement(Value):
    """A result that was accepted, with all that proves it."""

    idem_key: str
    task_id: str
    offer: Signed
    result: Signed
    receipt: Signed
    receipt_body: ReceiptBody
    usage: Usage
    output: str | None = None
    blob: str | None = None
    """Digest of the output where it came as a blob."""
    artifact: Blob | None = None
    """What a program left."""


class LedgerKind(StrEnum):
    """Why money moved."""

    EARNED = "earned"
    """An accepted result."""
    VERDICT = "verdict"
    """A validator's verdict that was revealed."""
    SLASHED = "slashed"
    """Taken from a node's stake."""


class LedgerLine(Value):
    """What one accepted result or verdict earned, or what a judgement cost."""

    receipt_id: str
    """Of what was slashed: the case."""
    node_id: str
    task_id: str
    idem_key: str
    """Names the line for ever."""
    usage: Usage
    amount_micros: int
    """Below zero where it was taken."""
    currency: str
    at: int
    kind: LedgerKind = LedgerKind.EARNED
    detail: str = ""


class NodeRecord(Value):
    """An enrolled node."""

    node_id: str
    node_key: str
    name: str
    enrolled_at: int
    directives: tuple[Directive, ...] = ()
    """Not heeded yet, as far as its beats tell."""
    attestations: tuple[Attestation, ...] = ()
    """The latest verdict about each of its devices."""


class UsedToken(Value):
    """A one-time enrolment token; only its digest is kept."""

    sha256: str
    node_id: str = ""
    """Whom it enrolled; empty while unused."""


@dataclass(slots=True, eq=False)
class Task:
    """A task with what is only known while the coordinator runs."""

    demand: Demand
    progress: Progress
    due: float
    """Monotonic time of its deadline."""
    bytes: int
    """Size of its offer on the wire, at most."""
    expires: float = 0.0
    """Monotonic end of the live lease."""
    since: float = 0.0
    """Monotonic time at which it was granted; after a restart, of that."""
    started: bool = False
    """Confirmed by the node. Not stored: after a restart every live lease counts as confirmed, as nearly all are."""
    avoid: dict[str, float] = field(default_factory=dict)
    """Node → monotonic time until which it does not get this task."""
    receipts: dict[str, ReceiptBody] = field(default_factory=dict)
    """Idempotency key → what was acknowledged first."""

    @property
    def task_id(self) -> str:
        return self.demand.spec.task_id

    @property
    def model_digest(self) -> str:
        return self.demand.spec.model_digest

    @property
    def line(self) -> Line:
        """Where it waits."""
        return self.demand.spec.model_digest, self.demand.spec.kind


@dataclass(slots=True, eq=False)
class Node:
    """A node with what it last said of itself."""

    record: NodeRecord
    fingerprint: Fingerprint | None = None
    heard: float | None = None
    """Monotonic time of the last hello or beat; None since the coordinator started."""
    state: str = ""
    reason: str = ""
    load: tuple[PoolLoad, ...] = ()
    leases: dict[str, None] = field(default_factory=dict)
    """Task ids of its live leases, oldest first."""
    busy: Counter[str] = field(default_factory=Counter)
    """Pool → its live leases."""
    told: int = 0
    """Beats that were answered with its directives."""
    pools: dict[str, Pool] = field(default_factory=dict)
    """By name, as advertised."""

    def show(self, fingerprint: Fingerprint) -> None:
        """It tells what it is."""
        self.fingerprint = fingerprint
        self.pools = {pool.name: pool for pool in fingerprint.pools}

    def take(self, task_id: str, lease: Lease) -> None:
        """A lease of it begins."""
        self.leases[task_id] = None
        self.busy[lease.pool] += 1

    def drop(self, task_id: str, lease: Lease) -> None:
        """And ends."""
        del self.leases[task_id]
        self.busy[lease.pool] -= 1
        if not self.busy[lease.pool]:
            del self.busy[lease.pool]
