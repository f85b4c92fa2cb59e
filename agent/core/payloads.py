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
    CALIBRATION = "ga/v1/calibration"
    JUDGEMENT = "ga/v1/judgement"


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


class BeaconSource(StrEnum):
    """Where chance comes from that nobody could foresee and everybody can check."""

    EPOCH = "epoch"
    """A secret of the coordinator, whose digest was published before."""
    DRAND = "drand"
    """The public beacon of the League of Entropy (drand.love)."""


class BeaconPromise(Value, forbid_unknown_fields=True):
    """By which beacon, and by which rules, it will be decided whether a result is challenged; it is not known yet."""

    source: BeaconSource
    round: Count
    """Number of the epoch, or of drand's round."""
    commitment: str
    """Hex: SHA-256 of the epoch's secret; hash of drand's chain."""
    rate_micros: Count
    """Probability of a challenge, in millionths."""
    leaves: Count
    """How many leaves are repeated at least; each escalation doubles it."""


class Beacon(Value, forbid_unknown_fields=True):
    """What the promised round came to."""

    source: BeaconSource
    round: Count
    value: str
    """Hex: the epoch's secret; drand's randomness. 32 bytes each."""
    signature: str = ""
    """drand's, hex."""
    previous: str = ""
    """Likewise, of the round before: where a chain's signatures cover it."""


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
    beacon: BeaconPromise | None = None
    """None: this result will not be challenged."""


class ReceiptBundle(Value):
    """What `gpu-agent verify` reads: everything needed to check one task offline."""

    coordinator_key: str
    offer: Signed
    result: Signed
    receipt: Signed
    version: int = 1
    output: str | None = None
    opening: bytes | None = None
    """Opened leaves of the transcript (`core.proof.opening`); base64 in JSON."""
    beacon: Beacon | None = None
    """What drew them, when it is known."""
    judgement: Signed | None = None
    """JudgementBody under Role.JUDGEMENT; None while it is not judged."""


# --------------------------------------------------------------------------- challenges and validators


class Judgement(StrEnum):
    """What came of a challenge, or of a validator's work."""

    PASSED = "passed"
    SUSPECT = "suspect"
    """Not what an honest node shows, and no proof: more is looked at, and the node's next tasks with certainty."""
    FAILED = "failed"
    """Proven, or suspect too often."""
    UNOPENED = "unopened"
    """The node did not open in time, or what it opened is not what it committed to."""
    VOID = "void"
    """Could not be decided (no validator was there in time); nobody is blamed."""


class Subject(StrEnum):
    """Whose work was judged."""

    ANSWER = "answer"
    VERDICT = "verdict"
    """A validator's."""


class JudgementBody(Value, forbid_unknown_fields=True):
    """Signed by the coordinator (Role.JUDGEMENT): what it holds against or in favour of a node."""

    serial: Count
    """Of this node's judgements, from 1, without a gap."""
    node_id: str
    subject: Subject
    task_id: str
    attempt: Count
    fence: Count
    judgement: Judgement
    detail: str = ""
    validators: Count = 0
    """Whose verdicts agreed on it; 0: no model was needed to see it."""
    slashed_micros: Count = 0
    stake_micros: Count = 0
    """What is left of the (simulated) stake."""
    earned_micros: Count = 0
    """By a verdict that stands, in millionths of one unit of `currency`: this is the receipt for it."""
    currency: str = ""
    barred: bool = False
    """The node gets no checks: never again, or, having been silent too often, for a while."""
    judged_at: Count = 0
    """Unix seconds on the coordinator's clock; informative."""


class RecomputedLeaf(Value, forbid_unknown_fields=True):
    """A validator's own figures of one leaf."""

    leaf: Count
    sha256: str
    """`core.checks.forward.figures_sha256` of the recomputed candidates and log-probabilities."""


class VerdictBody(Value, forbid_unknown_fields=True, omit_defaults=True):
    """What a validator found, as JSON in the one text leaf of its own transcript. The result of its task carries the
    root alone; the leaf is opened when all validators of the case have committed (commit, then reveal)."""

    evidence: str
    """Digest of what was checked."""
    verdict: str
    """`core.checks.verdict.Verdict`."""
    certain: bool
    """A failure by S, X, prompt or ending, or of signatures and roots: proven, not a matter of thresholds."""
    reasons: tuple[str, ...]
    thresholds: str
    """Version of the calibration."""
    determinism: str
    """The validator's class."""
    exact: bool
    """Whether it repeated to the bit, being of the node's class."""
    recomputed: tuple[RecomputedLeaf, ...]
    copied: Count
    """Leaves whose own figures are the claimed ones to the bit."""
    salt: str
    """32 random bytes, hex: nobody finds the verdict by trying."""
    imprints: Count = 0
    """How many it held against hidden states of its own."""
    metrics: str = "{}"
    """JSON for people: figures of each check."""


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
