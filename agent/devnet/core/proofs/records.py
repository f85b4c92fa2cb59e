"""What the coordinator remembers of challenges and validators. Frozen values; the store writes them as they are."""

from __future__ import annotations

from enum import StrEnum

from agent.core.model import Blob, LeaseKey, Signed, Value
from agent.core.payloads import Beacon, BeaconPromise, Judgement, RecomputedLeaf, VerdictBody


class CaseState(StrEnum):
    """Where one challenged result is."""

    WAITING = "waiting"
    """Its beacon is not known yet, or (an epoch's) not told yet."""
    CHALLENGED = "challenged"
    """The node was asked to open its leaves."""
    CHECKING = "checking"
    """They are here and are those that were committed to; validators repeat what was drawn."""
    REVEALING = "revealing"
    """All validators have committed to a verdict and are asked to open it."""
    JUDGED = "judged"


class CheckState(StrEnum):
    """Where one validator's part of a case is."""

    ASKED = "asked"
    """Its `verify` task waits or runs."""
    SEALED = "sealed"
    """It delivered the root over its verdict."""
    REVEALED = "revealed"
    GONE = "gone"
    """It did not deliver, or did not reveal, or what it revealed is no verdict: another is asked in its place."""


class Check(Value):
    """One validator's part of a case, or its work on a canary."""

    task_id: str
    """Of the `verify` task."""
    level: int
    state: CheckState = CheckState.ASKED
    node_id: str = ""
    """The validator, as soon as there is one."""
    key: LeaseKey | None = None
    root: str = ""
    """What it committed to."""
    determinism: str = ""
    """The class that its commitment names."""
    verdict: VerdictBody | None = None
    due_at: int = 0
    """Unix seconds by which it must have revealed."""


class Case(Value):
    """One result under examination: of a node, or made up by the coordinator (a canary)."""

    case_id: str
    task_id: str
    """The task whose result is examined."""
    node_id: str
    """Who computed it; of a canary, a node that does not exist."""
    key: LeaseKey
    idem_key: str
    root: str
    leaves: int
    """As committed to, with the end leaf."""
    model_digest: str
    promise: BeaconPromise
    whole: bool = True
    """All leaves are asked for; else those that the beacon drew, for all of them would be too much to send."""
    state: CaseState = CaseState.WAITING
    beacon: Beacon | None = None
    level: int = 0
    """How often it was escalated."""
    due_at: int = 0
    """Unix seconds by which the node must have opened."""
    opening: Blob | None = None
    evidence: Blob | None = None
    """What validators read: a receipt bundle with the opening."""
    claimed: tuple[RecomputedLeaf, ...] = ()
    """Digests of the node's own figures, of leaves that are or may be drawn: whose are the same copied them."""
    known: tuple[int, ...] = ()
    """Leaves of which whoever repeats the claim has figures: who passes it without them did not."""
    checks: tuple[Check, ...] = ()
    judgement: Judgement | None = None
    detail: str = ""
    serial: int = 0
    """Of the judgement that it ended in, among those of its node."""
    judged_at: int = 0
    """Unix seconds."""
    determinism: str = ""
    """The class that the node promised; known once its opening was looked at."""
    imprints: int = 0
    """How many the node committed to."""
    work: str = ""
    """What has to be known to check it: `standing.work_of` its header."""
    seen_by: tuple[str, ...] = ()
    """Nodes that saw its relative, which is judged: of a claim the canary that was made of it, or the reverse."""
    canary: bool = False
    """Its figures are wrong, and the coordinator knows: who passes it did not look."""

    def drawn_id(self) -> str:
        """Names the challenge of this level."""
        return f"{self.task_id}/{self.level}"


class Standing(Value):
    """A node's record: what came of its challenges and of its work as a validator."""

    node_id: str
    stake_micros: int
    """Simulated: what is left of it."""
    serial: int = 0
    """Of its latest judgement."""
    challenged: int = 0
    passed: int = 0
    suspect: int = 0
    failed: int = 0
    unopened: int = 0
    void: int = 0
    suspected: int = 0
    """Suspicions that count: with `Rules.proofs.suspicions` of them it has failed."""
    clean: int = 0
    """Challenges passed since the last suspicion, of work that can be repeated: with `Rules.proofs.forgiven_after` of
    them it is forgotten."""
    verdicts: int = 0
    """Checks that it delivered and revealed."""
    verdicts_wrong: int = 0
    """Canaries passed, copies, and verdicts that all others contradicted."""
    unkept: int = 0
    """Checks that it took and did not deliver, or delivered and did not reveal."""
    silences: int = 0
    """Times at which it fell silent, and that count: with `Rules.proofs.silences` of them each is followed by a rest.
    All checks that were in its hands at one time are one."""
    kept: int = 0
    """Verdicts that stood since: with `Rules.proofs.forgiven_after` of them one silence is forgotten."""
    silent_fence: int = 0
    """Fence of the coordinator's latest lease when it last fell silent: what it had taken before went with it."""
    rests_until: int = 0
    """Unix seconds until which it gets no `verify` tasks, having been silent too often."""
    barred: bool = False
    """It was found out: it gets no `verify` tasks any more."""
    unchecked: tuple[str, ...] = ()
    """Works (`Case.work`) of its that validators handed back for want of a calibration: paid as class U, until one of
    the kind passes."""


class Judged(Value):
    """A judgement as it was signed."""

    node_id: str
    serial: int
    signed: Signed


class Epoch(Value):
    """One secret of the coordinator: its digest is told with every receipt, the secret when the epoch is over."""

    number: int
    secret: str
    """32 bytes, hex."""
    begins_at: int = 0
    """Unix seconds; 0 while no receipt has promised it: until then it is not even written down."""
    ends_at: int = 0
    told: bool = False
    """It is over: anybody may know the secret, and no receipt promises it any more."""
