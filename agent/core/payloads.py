"""What is believed for its signature: offer, result and receipt, exactly as signed (`core.proof.signed`); enrolment.

Unknown fields of the former are refused: somebody meant something by them.
"""

from __future__ import annotations

from enum import StrEnum

from agent.core.model import Blob, Commitment, Count, LeaseKey, Outcome, Reason, Signed, TaskSpec, Timings, Usage, Value


class Role(StrEnum):
    """Domain tags: a signature made for one purpose is worthless for another."""

    SESSION = "ga/v1/session"
    ENROL = "ga/v1/enrol"
    OFFER = "ga/v1/offer"
    RESULT = "ga/v1/result"
    RECEIPT = "ga/v1/receipt"
    BATCH = "ga/v1/batch"
    BUNDLE = "ga/v1/bundle"


class OfferBody(Value, forbid_unknown_fields=True):
    """Signed by the coordinator (Role.OFFER). Durations only: no wall-clock time decides anything."""

    node_id: str
    task: TaskSpec
    attempt: Count
    fence: Count
    lease_ms: Count
    deadline_ms: Count
    """From the moment the node asked: after it the result is worthless to the requester."""
    idem_key: str
    """Names this attempt for ever: the same key never counts twice."""
    nonce: str
    """32 bytes hex, chosen by the coordinator; with the task id it fixes the seed (proof.md)."""

    @property
    def key(self) -> LeaseKey:
        """The lease that this offer grants."""
        return LeaseKey(task_id=self.task.task_id, attempt=self.attempt, fence=self.fence)


class ResultBody(Value, forbid_unknown_fields=True):
    """Signed by the node (Role.RESULT). The output itself travels beside it, bound by its digest."""

    node_id: str
    task_id: str
    attempt: Count
    fence: Count
    idem_key: str
    outcome: Outcome
    reason: Reason
    detail: str = ""
    """Plain words for people; never decides anything."""
    output_sha256: str = ""
    """Hex digest of the output's UTF-8 bytes; empty when there is none."""
    output_bytes: Count = 0
    usage: Usage = Usage()
    timings: Timings = Timings()
    commitment: Commitment | None = None
    artifact: Blob | None = None
    """The archive of what a program left; it goes up as a blob of its own."""

    @property
    def key(self) -> LeaseKey:
        """The lease under which this result was made."""
        return LeaseKey(task_id=self.task_id, attempt=self.attempt, fence=self.fence)


class ReceiptStatus(StrEnum):
    """What the coordinator did with a result. Every value is terminal for the node."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """The same idempotency key was settled before; the body is that of the first receipt."""
    STALE = "stale"
    """Another lease of the task is live or settled."""
    UNKNOWN = "unknown"
    """The coordinator does not know this task."""
    REJECTED = "rejected"
    """The result contradicts itself or the offer; `detail` says how."""


class ReceiptBody(Value, forbid_unknown_fields=True):
    """Signed by the coordinator (Role.RECEIPT): the proof of what was delivered and what it earns."""

    receipt_id: str
    node_id: str
    task_id: str
    attempt: Count
    fence: Count
    idem_key: str
    status: ReceiptStatus
    result_sha256: str
    """Digest of the signed result payload."""
    received_at: Count
    """Unix seconds on the coordinator's clock; informative."""
    detail: str = ""
    output_sha256: str = ""
    commitment_root: str = ""
    amount_micros: Count = 0
    """Millionths of one unit of `currency`."""
    currency: str = ""


class ReceiptBundle(Value):
    """What `gpu-agent verify` reads: everything needed to check one task offline."""

    coordinator_key: str
    offer: Signed
    result: Signed
    receipt: Signed
    version: int = 1
    output: str | None = None


# --------------------------------------------------------------------------- enrolment (HTTP only)


class EnrolRequest(Value):
    """`POST /v1/enrol`: trades a one-time token for a node id."""

    token: str
    node_key: str
    """Ed25519 public key, hex."""
    signature: str
    """By the node key over `digest(Role.ENROL, token ‖ node_key)`: proof of possession."""
    name: str = ""


class EnrolReply(Value):
    """The node's id, and the coordinator's key to pin, vouched for by itself over the token."""

    node_id: str
    coordinator_key: str
    signature: str
    """By the coordinator key over `digest(Role.ENROL, token ‖ node_key ‖ node_id)`."""
