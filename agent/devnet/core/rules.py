"""The coordinator's numbers, and what it answers when it does not do what was asked."""

from __future__ import annotations

from typing import NamedTuple

from agent.core.model import Reason, Value
from agent.core.payloads import BeaconSource
from agent.core.wire import MAX_MESSAGE_BYTES, Refusal, RefusalCode


class Instant(NamedTuple):
    """When an event happened. Only `now` decides anything; `at` is written down for people."""

    now: float
    """Monotonic seconds."""
    at: int
    """Unix seconds."""


class ProofRules(Value):
    """How results are checked by sampling (docs/proof.md, Challenges). Times in seconds."""

    rate_micros: int = 0
    """Probability that a result is challenged, in millionths; 0 switches challenges off. `core.proof.posp` says what it
    must be."""
    beacon: BeaconSource = BeaconSource.EPOCH
    unverifiable_micros: int = 500_000
    """What work that nobody can repeat (class `U`) is paid where results are challenged: millionths of the price. Else
    it would pay to call everything so."""
    leaves: int = 4
    """Repeated of every challenged result; each escalation doubles it."""
    whole_bytes: int = 16 << 20
    """All leaves of a challenged result are asked for where they take less (51,000 tokens with 40 candidates), so that
    draws can be replayed. Of longer ones those that the beacon drew, and more with each escalation."""
    epoch_s: float = 60.0
    """How long a secret beacon is kept: a challenge follows a result after this time at the latest."""
    answer_s: float = 3600.0
    """A node that restarts, or waits for its owner, can still open in time."""
    verify_s: float = 600.0
    """Deadline of a validator's task, and of its reveal."""
    validators: int = 2
    canary_micros: int = 20_000
    """Of the checks that are given out, how many are known to be wrong: in millionths."""
    escalations: int = 2
    """Times that a suspicion leads to a closer look."""
    suspicions: int = 2
    """Cases that ended in suspicion and are a failure together: F and T alone are statistics."""
    forgiven_after: int = 10
    """Challenges passed in a row after which a suspicion is forgotten: noise alone must not add up to a failure.
    Likewise verdicts, and a silence."""
    keep_s: float = 7 * 86_400.0
    """What was opened is kept so long after the judgement; what a node was slashed for, for ever."""
    stake_micros: int = 10_000_000
    """Simulated stake of a node at its enrolment."""
    slash_micros: int = 2_000_000
    """Taken from it for a failure, or for not opening."""
    verdict_slash_micros: int = 500_000
    """Taken from a validator that passed a canary, or copied."""
    silences: int = 3
    """Times that a validator took checks and fell silent after which it gets none for `rest_s`, unless verdicts that
    stood (`forgiven_after` for each) came in between: one crash is not held against anybody."""
    rest_s: float = 86_400.0
    """Whoever is silent once more after that rests again."""
    verdict_reward_micros: int = 50
    """What one verdict earns."""


class Rules(Value):
    """How this coordinator behaves. Times in seconds."""

    lease_s: float = 40.0
    """Four beats: a lease outlives three lost ones."""
    unstarted_s: float = 10.0
    """An offer that nobody confirms was probably lost with its connection."""
    beat_s: float = 10.0
    max_attempts: int = 3
    """Attempts that may end in failure or silence before the task itself has failed."""
    default_deadline_s: float = 600.0
    max_deadline_s: float = 86_400.0
    max_queued: int = 10_000
    pause_after_failure_s: float = 5.0
    """A node that failed a task does not get it again at once: another node may be luckier."""
    pause_after_decline_s: float = 120.0
    """A node that cannot do a task will hardly be able to a minute later."""
    pause_while_busy_s: float = 2.0
    """A node that declined for a passing state (draining, starting, no free slot) may ask again soon."""
    price_micros_per_million_tokens: int = 200_000
    """Prompt and completion tokens alike; 200,000 micros are 0.20 of one unit."""
    price_micros_per_cpu_hour: int = 50_000
    """Of what a program may use at most, for the time that it ran."""
    currency: str = "credit"
    attest_every_s: float = 0.0
    """How old a verdict about a GPU may get before it is challenged again (docs/gpus.md, Is it a GPU); 0: never."""
    attest_latency_s: float = 0.6
    """For the network, there and back, on top of what the devices may take."""
    attest_ready_s: float = 900.0
    """To finish what runs on the devices, and to load the engine."""
    attest_at_once: int = 32
    """Nodes that are challenged at the same time: their rows are looked at one after another, a second each, and who
    waits for longer than `attesting.OPEN_S` would have no verdict."""
    attest_columns: int = 0
    """Width of the matrices; 0: what suits the devices."""
    proofs: ProofRules = ProofRules()


PASSING = frozenset(
    {
        *(Reason.DRAINING, Reason.PAUSED, Reason.COORDINATOR_PAUSED, Reason.STARTING, Reason.POOL_NOT_READY),
        *(Reason.NO_CREDIT, Reason.LEASE_TOO_SHORT, Reason.DEADLINE_PASSED, Reason.TOO_MANY_FAILURES),
    }
)
"""Reasons to decline that say something of the moment, not of the task."""

MAX_OFFERS_BYTES = MAX_MESSAGE_BYTES - (16 << 10)
"""All offers of one reply, as JSON; the rest is for the frame around them."""
PATH_BYTES = 1 << 10
"""What each offer's place under a common signature takes: ten siblings of 67 bytes, and their frame."""
MAX_OFFER_BYTES = 512 << 10
"""One offer, as JSON within JSON: a task that does not fit could never be delivered."""
MAX_CREDITS = 1024
"""Slots that one pull may name; more is a mistake, not a machine."""
MAX_LEASES = MAX_CREDITS
"""Live leases of one node, whatever it advertises."""
LEASES_PER_SLOT = 2
"""A slot is free for the next task as soon as its engine is done; the lease lives on until the result is delivered."""


class Refused(Exception):
    """The message is not carried out; nothing changed. Becomes a wire.Refusal."""

    def __init__(self, code: RefusalCode, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def told(self) -> Refusal:
        """As a message."""
        return Refusal(code=self.code, message=self.message[:1000], retry_after_s=self.retry_after_s)


def bad_message(message: str) -> Refused:
    """The sender is at fault: what was sent means nothing or contradicts itself."""
    return Refused(RefusalCode.BAD_MESSAGE, message)
