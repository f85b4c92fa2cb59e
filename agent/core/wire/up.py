"""Node → coordinator: what the node says and asks."""

from __future__ import annotations

from enum import StrEnum

from agent.core.attest.messages import MatrixCommitted, MatrixOpened, MatrixReady, MatrixReread
from agent.core.direction import Up
from agent.core.fingerprint import Fingerprint
from agent.core.model import Blob, Count, LeaseKey, Reason, Signed, Value
from agent.core.wire.limits import MAX_PULL_WAIT_S, PROTO_MAX, PROTO_MIN, Seconds


class Hello(Up):
    """Opens a session: proves the node's key, says what it runs and what it still has to deliver."""

    node_id: str
    nonce: str
    signature: str
    """Ed25519 by the node key over `core.proof.signed.digest(Role.SESSION, session_challenge(...))`."""
    fingerprint: Fingerprint
    proto: tuple[int, int] = (PROTO_MIN, PROTO_MAX)
    running: tuple[LeaseKey, ...] = ()
    unsent: tuple[LeaseKey, ...] = ()


class PoolLoad(Value):
    """How busy one pool is."""

    pool: str
    busy: Count
    free: Count


class Beat(Up):
    """Liveness; renews every lease that it lists."""

    held: tuple[LeaseKey, ...] = ()
    load: tuple[PoolLoad, ...] = ()
    state: str = ""
    """The node's state, as in `core.node.NodeState`."""
    reason: str = ""
    """Why the node takes no work now; empty when it does."""
    fingerprint: Fingerprint | None = None
    """Only on change or every five minutes."""
    judged: Count = 0
    """Serial of the latest judgement that the node has kept."""


class Credit(Value):
    """How many tasks of one model the node would take now."""

    pool: str
    model_digest: str
    count: Count


class Pull(Up):
    """Asks for work, never for more than free slots."""

    credits: tuple[Credit, ...]
    wait_s: Seconds = MAX_PULL_WAIT_S


class Start(Up):
    """Confirms leases before anything runs."""

    keys: tuple[LeaseKey, ...]


class Decline(Up):
    """Returns an offer that this node will not start."""

    key: LeaseKey
    reason: Reason
    detail: str = ""


class Chunk(Up, omit_defaults=True):
    """Streamed text; lossy: the final result is authoritative."""

    key: LeaseKey
    index: Count
    """Rises by one per chunk of an attempt; a gap is a lost chunk."""
    text: str
    tokens: Count
    leaf: str = ""
    """Running leaf hash, hex, when one or more leaves closed since the last chunk (proof.md)."""


class Delivery(Value):
    """One attempt's outcome."""

    signed: Signed
    """ResultBody under Role.RESULT."""
    output: str | None = None
    blob: str | None = None
    """Hex SHA-256 of the output when it went up as a blob."""
    artifact: str | None = None
    """Hex SHA-256 of what a program left, which went up as a blob; the signed result names it, too."""


class Result(Up):
    """Delivers outcomes; each is repeated until its receipt comes."""

    deliveries: tuple[Delivery, ...]


class OpeningRefusal(StrEnum):
    """Why a node does not open what it committed to."""

    NOT_DRAWN = "not_drawn"
    """The beacon is not the promised one, or did not draw this task and these leaves."""
    UNKNOWN = "unknown"
    """It never delivered such a result."""
    GONE = "gone"
    """The transcript was deleted when its time was over."""
    DAMAGED = "damaged"
    """The disk does not give it back."""


class Opening(Up):
    """Answers a challenge, with leaves (`core.proof.opening`) that went up as a blob, or with why there are none."""

    challenge_id: str
    blob: Blob | None = None
    refusal: OpeningRefusal | None = None
    detail: str = ""


class Bye(Up):
    """The node leaves; leases that it still holds may be given out again."""

    reason: str = ""


MatrixMessage = MatrixReady | MatrixCommitted | MatrixReread | MatrixOpened
UpMessage = Hello | Beat | Pull | Start | Decline | Chunk | Result | Opening | Bye | MatrixMessage
