"""One attempt: the states it passes and what each event makes of it.

    LEASED ─▶ STAGING ─▶ RUNNING ─▶ PROVING ─▶ REPORTING ─▶ CLOSED

`TABLE` is the whole behaviour: (state, event) → what follows. A pair that is not listed is a bug and raises with
the attempt's story. Pairs that a race makes possible (the engine finished while the cancel was on its way) are
listed as `STAY`. Values that an event brings (the product, the sealed result) pass through; nothing is kept here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.model import LeaseKey, Outcome, Reason, Signed, State
from agent.core.wire import OfferBody


class Event(StrEnum):
    """What can happen to an attempt."""

    START_CONFIRMED = "start_confirmed"
    START_REFUSED = "start_refused"
    UNFIT = "unfit"
    """A closer look (prompt length) before the start showed that this node cannot do it."""
    STAGED = "staged"
    GENERATED = "generated"
    FAILED = "failed"
    PROVED = "proved"
    STORED = "stored"
    RECEIPTED = "receipted"
    UNDELIVERABLE = "undeliverable"
    """The result is refused for good, or cannot be stored: its lease is not worth holding."""
    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    LEASE_EXPIRED = "lease_expired"
    DEADLINE_PASSED = "deadline_passed"
    HAND_BACK_ASKED = "hand_back_asked"


class Action(StrEnum):
    """What has to be done about it."""

    STAGE = "stage"
    GENERATE = "generate"
    PROVE = "prove"
    STORE_RESULT = "store_result"
    STOP_WORK = "stop_work"
    RETURN_OFFER = "return_offer"


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the table: the next state, what to do, and how the attempt ended if it did."""

    state: State | None = None
    """None: stay."""
    actions: tuple[Action, ...] = ()
    outcome: Outcome | None = None
    reason: Reason | None = None
    """Where the event brings none."""


STAY = Step()
_REPORT = (Action.STORE_RESULT,)
_STOP_AND_REPORT = (Action.STOP_WORK, Action.STORE_RESULT)
_STOP = (Action.STOP_WORK,)
_RETURN = (Action.STOP_WORK, Action.RETURN_OFFER)

_S, _E, _O, _R = State, Event, Outcome, Reason

TABLE: dict[tuple[State, Event], Step] = {
    # The lease is ours, the coordinator has not yet confirmed that we may start.
    (_S.LEASED, _E.START_CONFIRMED): Step(_S.STAGING, (Action.STAGE,)),
    (_S.LEASED, _E.START_REFUSED): Step(_S.CLOSED, (), _O.DECLINED, _R.START_REFUSED),
    (_S.LEASED, _E.UNFIT): Step(_S.CLOSED, (Action.RETURN_OFFER,), _O.DECLINED),
    (_S.LEASED, _E.FAILED): Step(_S.CLOSED, (Action.RETURN_OFFER,), _O.DECLINED),
    (_S.LEASED, _E.CANCELLED): Step(_S.CLOSED, _STOP, _O.CANCELLED),
    (_S.LEASED, _E.LEASE_LOST): Step(_S.CLOSED, _STOP, _O.EXPIRED, _R.LEASE_LOST),
    (_S.LEASED, _E.LEASE_EXPIRED): Step(_S.CLOSED, _STOP, _O.EXPIRED, _R.LEASE_EXPIRED),
    (_S.LEASED, _E.DEADLINE_PASSED): Step(_S.CLOSED, _RETURN, _O.DECLINED, _R.DEADLINE_PASSED),
    (_S.LEASED, _E.HAND_BACK_ASKED): Step(_S.CLOSED, _RETURN, _O.DECLINED),
    # Waiting for the engine.
    (_S.STAGING, _E.STAGED): Step(_S.RUNNING, (Action.GENERATE,)),
    (_S.STAGING, _E.FAILED): Step(_S.REPORTING, _REPORT, _O.FAILED),
    (_S.STAGING, _E.CANCELLED): Step(_S.CLOSED, _STOP, _O.CANCELLED),
    (_S.STAGING, _E.LEASE_LOST): Step(_S.CLOSED, _STOP, _O.EXPIRED, _R.LEASE_LOST),
    (_S.STAGING, _E.LEASE_EXPIRED): Step(_S.CLOSED, _STOP, _O.EXPIRED, _R.LEASE_EXPIRED),
    (_S.STAGING, _E.DEADLINE_PASSED): Step(_S.REPORTING, _STOP_AND_REPORT, _O.EXPIRED, _R.DEADLINE_PASSED),
    (_S.STAGING, _E.HAND_BACK_ASKED): Step(_S.REPORTING, _STOP_AND_REPORT, _O.HANDED_BACK),
    # The engine computes.
    (_S.RUNNING, _E.GENERATED): Step(_S.PROVING, (Action.PROVE,)),
    (_S.RUNNING, _E.FAILED): Step(_S.REPORTING, _REPORT, _O.FAILED),
    (_S.RUNNING, _E.CANCELLED): Step(_S.CLOSED, _STOP, _O.CANCELLED),
    (_S.RUNNING, _E.LEASE_LOST): Step(_S.CLOSED, _STOP, _O.EXPIRED, _R.LEASE_LOST),
    (_S.RUNNING, _E.LEASE_EXPIRED): Step(_S.CLOSED, _STOP, _O.EXPIRED, _R.LEASE_EXPIRED),
    (_S.RUNNING, _E.DEADLINE_PASSED): Step(_S.REPORTING, _STOP_AND_REPORT, _O.EXPIRED, _R.DEADLINE_PASSED),
    (_S.RUNNING, _E.HAND_BACK_ASKED): Step(_S.REPORTING, _STOP_AND_REPORT, _O.HANDED_BACK),
    # Computed. A lost lease changes nothing now: a task that was requeued but not leased again takes the result,
    # and delivering costs less than computing it again.
    (_S.PROVING, _E.PROVED): Step(_S.REPORTING, _REPORT, _O.SUCCEEDED, _R.COMPLETED),
    (_S.PROVING, _E.FAILED): Step(_S.REPORTING, _REPORT, _O.FAILED),
    (_S.PROVING, _E.CANCELLED): Step(_S.CLOSED, _STOP, _O.CANCELLED),
    (_S.PROVING, _E.LEASE_LOST): STAY,
    (_S.PROVING, _E.LEASE_EXPIRED): STAY,
    (_S.PROVING, _E.DEADLINE_PASSED): STAY,
    (_S.PROVING, _E.HAND_BACK_ASKED): STAY,
    # On its way through the outbox; only a receipt ends it.
    (_S.REPORTING, _E.STORED): STAY,
    (_S.REPORTING, _E.RECEIPTED): Step(_S.CLOSED),
    (_S.REPORTING, _E.UNDELIVERABLE): Step(_S.CLOSED),
    (_S.REPORTING, _E.CANCELLED): STAY,
    (_S.REPORTING, _E.LEASE_LOST): STAY,
    (_S.REPORTING, _E.LEASE_EXPIRED): STAY,
    (_S.REPORTING, _E.DEADLINE_PASSED): STAY,
    (_S.REPORTING, _E.HAND_BACK_ASKED): STAY,
}

# Work that was told to stop may have ended, or failed, in the same instant. What it says then comes too late.
_LATE_WORK = (_E.STAGED, _E.GENERATED, _E.FAILED, _E.PROVED, _E.UNFIT, _E.START_CONFIRMED, _E.START_REFUSED)
TABLE |= {(state, event): STAY for state in (_S.REPORTING, _S.CLOSED) for event in _LATE_WORK}
# An attempt that closed by itself may still be named by the coordinator, or be receipted from the outbox.
TABLE |= {
    (_S.CLOSED, event): STAY
    for event in (
        *(_E.CANCELLED, _E.LEASE_LOST, _E.LEASE_EXPIRED, _E.DEADLINE_PASSED, _E.HAND_BACK_ASKED),
        *(_E.STORED, _E.RECEIPTED, _E.UNDELIVERABLE),
    )
}

OCCUPIES_SLOT = frozenset({State.LEASED, State.STAGING, State.RUNNING})
"""States in which an attempt holds one of its pool's slots: the engine is free again once it has computed."""


class ImpossibleTransition(Exception):
    """An event came in a state where it cannot; the message tells the attempt's story."""

    def __init__(self, key: LeaseKey, story: str) -> None:
        super().__init__(story)
        self.key = key


@dataclass(slots=True)
class Attempt:
    """One attempt and its story. Changed only by `advance`, `renew`."""

    key: LeaseKey
    offer: OfferBody
    signed: Signed
    pool: str
    leased_at: float
    lease_deadline: float
    """Monotonic; ours, margin already taken off (core.lease)."""
    task_deadline: float
    """Monotonic; after it the result is worthless."""
    state: State = State.LEASED
    outcome: Outcome | None = None
    reason: Reason | None = None
    detail: str = ""
    story: list[tuple[float, str]] = field(default_factory=list)

    def renew(self, deadline: float) -> None:
        """Extend the lease; answers may overtake each other, so it never shrinks."""
        self.lease_deadline = max(self.lease_deadline, deadline)

    def advance(self, event: Event, now: float, reason: Reason | None = None, detail: str = "") -> Step:
        """Apply one event and return the row that was taken. Raises ImpossibleTransition."""
        step = TABLE.get((self.state, event))
        if step is None:
            raise ImpossibleTransition(self.key, f"{event.value} while {self.state.value}: {self.tell()}")
        if step is STAY:
            return step
        self.story.append((now, event.value))
        if step.state is not None:
            self.state = step.state
        if step.outcome is not None:
            self.outcome, self.reason, self.detail = step.outcome, reason or step.reason, detail
        return step

    def tell(self) -> str:
        """The attempt's story in one line, with seconds since its lease."""
        steps = ", ".join(f"{event} +{at - self.leased_at:.3f}s" for at, event in self.story)
        return f"{self.key.task_id}/{self.key.attempt} fence {self.key.fence}: leased, {steps or 'nothing yet'}"


def explain(table: dict[tuple[State, Event], Step] | None = None) -> str:
    """The table as Mermaid text, for docs/architecture.md."""
    rows: dict[tuple[State, State], list[str]] = {}
    for (state, event), step in (table or TABLE).items():
        if step.state is not None:
            rows.setdefault((state, step.state), []).append(event.value)
    lines = ["stateDiagram-v2", "    [*] --> leased"]
    lines += [f"    {a.value} --> {b.value}: {' / '.join(events)}" for (a, b), events in rows.items()]
    return "\n".join([*lines, "    closed --> [*]"])
