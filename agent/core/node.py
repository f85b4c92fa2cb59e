"""The node's whole state and every decision about it. Events and `now` come in, commands come out.

Everything the node knows about its attempts, pools and gates stands in `Node` and nowhere else; stages carry
events in and commands out, and keep nothing that could disagree with it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, assert_never

from agent.core import admission, lease
from agent.core import events as ev
from agent.core.attempt import OCCUPIES_SLOT, Attempt, Event
from agent.core.breaker import Breaker
from agent.core.devices import Devices, Pause, uuids_of
from agent.core.fingerprint import Pool
from agent.core.gates import gates_of, model_gate, pool_gates
from agent.core.health import HealthState
from agent.core.intake import Intake, NodeState
from agent.core.model import LeaseKey, Outcome, Reason, State
from agent.core.orders import Voice
from agent.core.status import Gate, RecentAttempt, recent
from agent.core.wire import Credit, PoolLoad

REMEMBERED_KEYS = 4096
"""Idempotency keys of recent offers, against replays. 4,096 × about 100 bytes; older ones the outbox knows."""
REMEMBERED_ATTEMPTS = 16
"""For status: what happened lately, without the prompts."""
BREAKER_FAILURES = 5


class Node:
    """The pure core of the agent."""

    def __init__(self, node_id: str, *, breaker_failures: int = BREAKER_FAILURES) -> None:
        self.node_id = node_id
        self._intake = Intake()
        self.attempts: dict[LeaseKey, Attempt] = {}
        self.closed: deque[RecentAttempt] = deque(maxlen=REMEMBERED_ATTEMPTS)
        self.pools: dict[str, Pool] = {}
        self.breakers: dict[str, Breaker] = {}
        self.devices = Devices()
        self.ended: Counter[tuple[Outcome, Reason]] = Counter()
        """Attempts since the start, by how and why they ended."""
        self._seen: dict[str, None] = {}
        self._breaker_failures = breaker_failures

    # ------------------------------------------------------------------ what stages may ask

    @property
    def state(self) -> NodeState:
        """What the node does about new work."""
        return self._intake.state

    def free(self, pool: str) -> int:
        """Slots of a pool that may be filled; 0 unless it is ready, and while its breaker is open."""
        facts = self.pools.get(pool)
        if facts is None or not facts.ready or not self.devices.open_to(facts):
            return 0
        busy = self.busy(pool)
        return self.breakers[pool].room(max(0, facts.slots - busy), busy)

    def busy(self, pool: str) -> int:
        """Slots of a pool that attempts hold."""
        return sum(1 for a in self.attempts.values() if a.pool == pool and a.state in OCCUPIES_SLOT)

    def credit(self, pool: str) -> Credit | None:
        """How much to pull for a pool; None when the node takes no work for it now."""
        count = self.free(pool)
        if count < 1 or not self._intake.is_open:
            return None
        return Credit(pool=pool, model_digest=self.pools[pool].model_digest, count=count)

    def gates(self, now: float | None = None) -> list[Gate]:
        """Every reason why the node takes no work now, the most telling first; empty when it does. With `now`, a gate
        that opens by itself tells how long that takes."""
        return self._intake.gates(now) + pool_gates(self.pools, self.breakers, now, self.devices)

    def pool_gates(self, pool: str, now: float) -> list[Gate]:
        """Every reason why this pool takes no work, whatever the others do."""
        return gates_of(self.pools[pool], self.breakers[pool], now, self.devices)

    @property
    def is_paused(self) -> bool:
        """Whether its owner paused the node, whatever else was asked of it."""
        return self._intake.is_paused

    def is_shut(self, reason: Reason) -> bool:
        """Whether this gate from outside is shut."""
        return self._intake.is_shut(reason)

    def reasons(self, devices: Iterable[str]) -> frozenset[Reason]:
        """Every reason of the node's and of these devices against new work there, but their health."""
        return self._intake.reasons() | self.devices.reasons(devices)

    def on_devices(self, devices: Iterable[str]) -> list[LeaseKey]:
        """Attempts of pools that have one of these devices."""
        meant = set(devices)
        pools = {name for name, pool in self.pools.items() if not meant.isdisjoint(uuids_of(pool))}
        return [attempt.key for attempt in self.attempts.values() if attempt.pool in pools]

    def held(self) -> tuple[LeaseKey, ...]:
        """Leases to renew with the next beat: of everything that is not closed."""
        return tuple(self.attempts)

    def loads(self) -> tuple[PoolLoad, ...]:
        """How busy each pool is."""
        return tuple(PoolLoad(pool=name, busy=self.busy(name), free=self.free(name)) for name in self.pools)

    def next_deadline(self) -> float | None:
        """Monotonic time at which `Ticked` is due next."""
        times = [*self._intake.deadlines(), *self.devices.deadlines()]
        times += [breaker.retry_at for breaker in self.breakers.values() if breaker.retry_at is not None]
        for attempt in self.attempts.values():
            if attempt.state in OCCUPIES_SLOT:
                times += [attempt.lease_deadline, attempt.task_deadline]
        return min(times, default=None)

    @property
    def counts(self) -> dict[Outcome, int]:
        """Attempts since the start, by how they ended."""
        return {outcome: sum(n for (how, _), n in self.ended.items() if how is outcome) for outcome in Outcome}

    # ------------------------------------------------------------------ events in, commands out

    def handle(self, event: ev.NodeEvent, now: float) -> list[ev.Command]:  # noqa: PLR0911, PLR0912  (one case an event)
        """Apply one event. Raises ImpossibleTransition on a bug."""
        match event:
            case ev.OfferArrived():
                return self._offer(event, now)
            case ev.Happened():
                return self._happened(event, now)
            case ev.BeatAcked():
                return self._beat_acked(event, now)
            case ev.Welcomed():
                return self._welcomed(event, now)
            case ev.PoolChanged():
                return self._pool_changed(event)
            case ev.GpuMoved():
                return self._gpu_moved(event, now)
            case ev.Ticked():
                return self._tick(now)
            case ev.DrainAsked():
                return self._drain(event, now)
            case ev.AbortAsked(devices=devices):
                keys = self.on_devices(devices) if devices else list(self.attempts)
                return self._all(keys, Event.HAND_BACK_ASKED, now, event.reason)
            case ev.PauseAsked():
                return self._paused(event, now)
            case ev.ResumeAsked():
                return self._resume(event, now)
            case ev.GateChanged():
                self._intake.gate(event)
                return []
            case ev.DeviceGateChanged():
                self.devices.gate(event.devices, event.reason, event.detail, shut=event.shut)
                return []
            case ev.BreakerLimitChanged(failures=failures):
                return self._limit_breakers(failures, now)
        assert_never(event)

    def _offer(self, event: ev.OfferArrived, now: float) -> list[ev.Command]:
        offer = event.offer
        if offer.key in self.attempts:  # repeated; to decline it would end the very lease that we hold
            return []
        no = admission.judge_offer(offer, self.node_id) or self._judge_state(offer.idem_key, event.settled)
        if no is None:
            pool = admission.place(offer.task, self.pools.values(), {name: self.free(name) for name in self.pools})
            if isinstance(pool, Pool):
                return self._lease(event, pool, now)
            gate = model_gate(offer.task.model_digest, self.pools, self.breakers, self.devices)
            no = admission.No(reason=gate.reason, detail=gate.detail) if gate else pool
        self.ended[Outcome.DECLINED, no.reason] += 1
        return [ev.ReturnOffer(key=offer.key, reason=no.reason, detail=no.detail)]

    def _judge_state(self, idem_key: str, settled: bool) -> admission.No | None:
        if settled or idem_key in self._seen:
            return admission.No(reason=Reason.REPLAYED_OFFER, detail="this very offer was seen before")
        return self._intake.refusal()

    def _lease(self, event: ev.OfferArrived, pool: Pool, now: float) -> list[ev.Command]:
        offer = event.offer
        self._remember(offer.idem_key)
        attempt = Attempt(
            key=offer.key,
            offer=offer,
            signed=event.signed,
            pool=pool.name,
            leased_at=now,
            lease_deadline=lease.local_deadline(event.asked_at, offer.lease_ms / 1000),
            task_deadline=event.asked_at + offer.deadline_ms / 1000,
        )
        self.attempts[offer.key] = attempt
        return [ev.ConfirmStart(key=offer.key, pool=pool.name, offer=offer), ev.AttemptMoved(attempt=attempt)]

    def _remember(self, idem_key: str) -> None:
        self._seen[idem_key] = None
        if len(self._seen) > REMEMBERED_KEYS:
            del self._seen[next(iter(self._seen))]

    def _happened(self, event: ev.Happened, now: float) -> list[ev.Command]:
        attempt = self.attempts.get(event.key)
        if attempt is None:  # closed meanwhile, or of an earlier life of this agent: nothing is left to decide
            return []
        if event.lease_deadline is not None:
            attempt.renew(event.lease_deadline)
        return self._advance(attempt, event.event, now, reason=event.reason, detail=event.detail, product=event.product)

    def _advance(
        self,
        attempt: Attempt,
        event: Event,
        now: float,
        *,
        reason: Reason | None = None,
        detail: str = "",
        product: Any = None,
    ) -> list[ev.Command]:
        before = attempt.state
        step = attempt.advance(event, now, reason, detail)
        commands = [ev.command_of(action, attempt, product) for action in step.actions]
        if attempt.state is not before:
            commands.append(ev.AttemptMoved(attempt=attempt))
        if (outcome := step.outcome) is not None:
            commands += self._break(attempt.pool, lambda breaker: breaker.ended(outcome, attempt.reason, now), now)
        if attempt.state is State.CLOSED:
            commands += self._close(attempt, now)
        return commands + self._maybe_drained()

    def _break(self, pool: str, act: Callable[[Breaker], None], now: float) -> list[ev.Command]:
        """Do something to a pool's breaker, and tell when that moved it."""
        breaker = self.breakers[pool]
        before = breaker.state
        act(breaker)
        if breaker.state is before:
            return []
        return [ev.BreakerMoved(pool=pool, state=breaker.state.value, detail=breaker.tell(now))]

    def _limit_breakers(self, failures: int, now: float) -> list[ev.Command]:
        self._breaker_failures = failures
        return [it for pool in self.breakers for it in self._break(pool, lambda one: one.limit(failures), now)]

    def _close(self, attempt: Attempt, now: float) -> list[ev.Command]:
        del self.attempts[attempt.key]
        outcome = attempt.outcome or Outcome.FAILED
        self.closed.append(recent(attempt, outcome, now))
        self.ended[outcome, self.closed[-1].reason] += 1
        return [ev.Closed(attempt=attempt)]

    def abandon(self, key: LeaseKey, now: float) -> list[ev.Command]:
        """Close an attempt whose story makes no sense any more (ImpossibleTransition), so that no other suffers."""
        attempt = self.attempts.get(key)
        if attempt is None:
            return []
        attempt.state, attempt.outcome, attempt.reason = State.CLOSED, Outcome.FAILED, Reason.INTERNAL
        return [ev.StopWork(key=key), *self._close(attempt, now), *self._maybe_drained()]

    def _beat_acked(self, event: ev.BeatAcked, now: float) -> list[ev.Command]:
        deadline = lease.local_deadline(event.asked_at, event.lease_ms / 1000)
        for key in event.renewed:
            if key in self.attempts:
                self.attempts[key].renew(deadline)
        return self._all(event.lost, Event.LEASE_LOST, now) + self._all(
            event.cancelled, Event.CANCELLED, now, Reason.CANCELLED_BY_REQUESTER
        )

    def _welcomed(self, event: ev.Welcomed, now: float) -> list[ev.Command]:
        """After a reconnect: what we claimed to run and the coordinator no longer wants is lost."""
        lost = [key for key in event.claimed if key not in event.wanted]
        return [ev.DeliverNow(), *self._all(lost, Event.LEASE_LOST, now)]

    def _all(
        self, keys: Iterable[LeaseKey], event: Event, now: float, reason: Reason | None = None
    ) -> list[ev.Command]:
        commands: list[ev.Command] = []
        for key in keys:
            if (attempt := self.attempts.get(key)) is not None:
                commands += self._advance(attempt, event, now, reason=reason)
        return commands

    def _pool_changed(self, event: ev.PoolChanged) -> list[ev.Command]:
        self.pools[event.pool.name] = event.pool
        self.breakers.setdefault(event.pool.name, Breaker(self._breaker_failures))
        return self._intake.pools_are(ready=any(pool.ready for pool in self.pools.values()))

    def _gpu_moved(self, event: ev.GpuMoved, now: float) -> list[ev.Command]:
        """A lost GPU computes nothing any more: what runs there is handed back, so that others can have it at once."""
        self.devices.judge(event.devices, event.state, event.detail)
        if event.state is not HealthState.LOST:
            return []
        return self._all(self.on_devices(event.devices), Event.HAND_BACK_ASKED, now, Reason.GPU_LOST)

    def _tick(self, now: float) -> list[ev.Command]:
        commands: list[ev.Command] = []
        for pool in self.breakers:
            commands += self._break(pool, lambda breaker: breaker.tick(now), now)
        for attempt in list(self.attempts.values()):
            if attempt.state not in OCCUPIES_SLOT:
                continue
            if now >= attempt.lease_deadline:
                commands += self._advance(attempt, Event.LEASE_EXPIRED, now)
            elif now >= attempt.task_deadline:
                commands += self._advance(attempt, Event.DEADLINE_PASSED, now)
        if self._intake.drain_is_over(now):
            commands += self._hand_back_all(now, Reason.DRAIN_LIMIT)
        return commands + self._end_pauses(now)

    def _end_pauses(self, now: float) -> list[ev.Command]:
        """Those that end by themselves, after what they no longer let run is handed back."""
        commands = self._hand_back_paused(now)
        over = self.devices.tick(now)
        return commands + ([ev.DevicesResumed(devices=over)] if over else []) + self._intake.end_pauses(now)

    def _drain(self, event: ev.DrainAsked, now: float) -> list[ev.Command]:
        return self._intake.drain(event, now) + self._maybe_drained()

    def _maybe_drained(self) -> list[ev.Command]:
        return [] if self.attempts else self._intake.drained()

    def _hand_back_all(self, now: float, reason: Reason) -> list[ev.Command]:
        return self._all(list(self.attempts), Event.HAND_BACK_ASKED, now, reason)

    def _paused(self, event: ev.PauseAsked, now: float) -> list[ev.Command]:
        until, hand_back_at = (None if it is None else now + it for it in (event.for_s, event.hand_back_after_s))
        pause, moved = Pause(until, hand_back_at, event.why), list[ev.Command]()
        if event.devices:
            self.devices.pause(event.devices, pause)
            moved += [ev.DevicesPaused(devices=event.devices)]
        else:
            moved += self._intake.pause(event.by, pause)
        return moved + self._hand_back_paused(now)

    def _hand_back_paused(self, now: float) -> list[ev.Command]:
        keys = list(self.attempts) if self._intake.hands_back(now) else self.on_devices(self.devices.handed_back(now))
        return self._all(keys, Event.HAND_BACK_ASKED, now, Reason.PAUSED)

    def _resume(self, event: ev.ResumeAsked, now: float) -> list[ev.Command]:
        """The coordinator's ends what it asked for itself, and neither the owner's pauses nor what protects him."""
        if event.by is Voice.COORDINATOR:
            return self._intake.resume(event.by)
        over = self.devices.resume(event.devices)
        commands: list[ev.Command] = [ev.DevicesResumed(devices=over)] if over else []
        if event.devices:
            return commands
        for pool in self.breakers:
            commands += self._break(pool, Breaker.retry, now)
        return commands + self._intake.resume(event.by)
