"""What the node core is told (events, past tense) and what it orders (commands, imperative)."""

from __future__ import annotations

from typing import Any, assert_never

from agent.core.attempt import Action, Attempt, Event
from agent.core.fingerprint import Pool
from agent.core.health import HealthState
from agent.core.model import LeaseKey, Reason, Signed, Value
from agent.core.orders import Voice
from agent.core.wire import OfferBody

# --------------------------------------------------------------------------- events


class OfferArrived(Value):
    """A verified offer; `settled` when the outbox or ledger already knows its key."""

    offer: OfferBody
    signed: Signed
    asked_at: float
    """Monotonic time at which the pull was sent."""
    settled: bool = False


class Happened(Value):
    """Something happened to one attempt."""

    key: LeaseKey
    event: Event
    reason: Reason | None = None
    detail: str = ""
    lease_deadline: float | None = None
    product: Any = None
    """Passed through to the command that follows; core never looks inside."""


class BeatAcked(Value):
    """The coordinator answered a beat that was sent at monotonic `asked_at`."""

    asked_at: float
    lease_ms: int
    renewed: tuple[LeaseKey, ...]
    lost: tuple[LeaseKey, ...]
    cancelled: tuple[LeaseKey, ...]


class Welcomed(Value):
    """A session opened: of the leases we claimed, the coordinator still wants these."""

    claimed: tuple[LeaseKey, ...]
    wanted: tuple[LeaseKey, ...]


class PoolChanged(Value):
    """New facts of one pool."""

    pool: Pool


class GpuMoved(Value):
    """A GPU may take work, or may not any more."""

    devices: tuple[str, ...]
    """Its UUID and those of its MIG slices, as pools name them."""
    state: HealthState
    detail: str = ""


class GateChanged(Value):
    """Something outside attempts and pools began or ceased to keep the node from taking work."""

    reason: Reason
    shut: bool
    detail: str = ""


class DeviceGateChanged(Value):
    """The owner's side began or ceased to keep pools off a device."""

    devices: tuple[str, ...]
    """UUIDs, as pools name them."""
    reason: Reason
    shut: bool
    detail: str = ""


class Ticked(Value):
    """`Node.next_deadline()` has come."""


class DrainAsked(Value):
    """Take nothing new; after `limit_s` hand back what still runs."""

    limit_s: float
    final: bool = False
    """The process leaves: no resume ends this."""
    by: Voice = Voice.OWNER


class AbortAsked(Value):
    """Hand back now what runs: everything, or what runs on some devices."""

    reason: Reason
    devices: tuple[str, ...] = ()
    """UUIDs; none means the whole node."""


class PauseAsked(Value):
    """Take nothing new."""

    for_s: float | None = None
    """Ends by itself after so long; None: when resumed."""
    hand_back_after_s: float | None = None
    """How long what runs may go on; None: to its end."""
    devices: tuple[str, ...] = ()
    """UUIDs of a GPU and its MIG slices, when only they are meant."""
    why: str = ""
    """In plain words, when the owner did not say so."""
    by: Voice = Voice.OWNER
    """Single devices are paused by their owner alone."""


class ResumeAsked(Value):
    """End pauses and drains: all of them, or those that the coordinator asked for."""

    devices: tuple[str, ...] = ()
    """UUIDs of a GPU and its MIG slices, when only their pause is meant."""
    by: Voice = Voice.OWNER


class BreakerLimitChanged(Value):
    """So many failures in a row open a breaker from now on."""

    failures: int


NodeEvent = (
    OfferArrived
    | Happened
    | BeatAcked
    | Welcomed
    | PoolChanged
    | GpuMoved
    | GateChanged
    | DeviceGateChanged
    | Ticked
    | DrainAsked
    | AbortAsked
    | PauseAsked
    | ResumeAsked
    | BreakerLimitChanged
)

# --------------------------------------------------------------------------- commands


class ConfirmStart(Value):
    """Look closer, then ask the coordinator whether the lease still stands."""

    key: LeaseKey
    pool: str
    offer: OfferBody


class Stage(Value):
    """Wait until the pool's engine is ready."""

    key: LeaseKey
    pool: str


class Generate(Value):
    """Run the task on the pool's engine."""

    key: LeaseKey
    pool: str
    offer: OfferBody


class StopWork(Value):
    """Stop whatever runs for this attempt."""

    key: LeaseKey


class Prove(Value):
    """Commit to what was generated."""

    key: LeaseKey
    pool: str
    offer: OfferBody
    product: Any
    deadline: float
    """Monotonic; after it the result is worthless, and nothing is waited for."""


class StoreResult(Value):
    """Put the attempt's outcome into the outbox; `sealed` is the proved product, None without one."""

    attempt: Attempt
    sealed: Any


class ReturnOffer(Value):
    """Give an offer back that was not started."""

    key: LeaseKey
    reason: Reason
    detail: str


class DeliverNow(Value):
    """A session is open: what waits for a retry need wait no longer."""


class AttemptMoved(Value):
    """To be logged: the attempt changed its state."""

    attempt: Attempt


class Closed(Value):
    """To be logged: the attempt ended."""

    attempt: Attempt


class NodeMoved(Value):
    """To be logged, shown and told to the coordinator: the node changed its state."""

    before: str
    after: str


class BreakerMoved(Value):
    """To be logged: a pool stopped itself, or tries again (core.breaker)."""

    pool: str
    state: str
    detail: str


class DevicesPaused(Value):
    """To be logged: the owner paused a GPU."""

    devices: tuple[str, ...]


class DevicesResumed(Value):
    """To be logged: the pause of a GPU ended."""

    devices: tuple[str, ...]


Command = (
    ConfirmStart
    | Stage
    | Generate
    | StopWork
    | Prove
    | StoreResult
    | ReturnOffer
    | DeliverNow
    | AttemptMoved
    | Closed
    | NodeMoved
    | BreakerMoved
    | DevicesPaused
    | DevicesResumed
)


def command_of(action: Action, attempt: Attempt, product: Any) -> Command:
    """The command that carries out what the attempt's table asks for; `product` is what the event brought."""
    key, pool = attempt.key, attempt.pool
    match action:
        case Action.STAGE:
            return Stage(key=key, pool=pool)
        case Action.GENERATE:
            return Generate(key=key, pool=pool, offer=attempt.offer)
        case Action.PROVE:
            return Prove(key=key, pool=pool, offer=attempt.offer, product=product, deadline=attempt.task_deadline)
        case Action.STORE_RESULT:
            return StoreResult(attempt=attempt, sealed=product)
        case Action.STOP_WORK:
            return StopWork(key=key)
        case Action.RETURN_OFFER:
            return ReturnOffer(key=key, reason=attempt.reason or Reason.ABORTED, detail=attempt.detail)
    assert_never(action)
