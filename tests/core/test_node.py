"""The node core: admission, credits, leases, drain, and no attempt in two places."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.core import events as ev
from agent.core.attempt import OCCUPIES_SLOT, Event
from agent.core.fingerprint import Pool
from agent.core.model import EmbeddingInput, LeaseKey, Outcome, Reason, State
from agent.core.node import Node, NodeState
from agent.core.wire import OfferBody
from tests import builders


def serving(*pools: Pool) -> Node:
    node = Node(builders.NODE)
    for pool in pools or (builders.pool(),):
        node.handle(ev.PoolChanged(pool=pool), 0.0)
    return node


def arrive(node: Node, offer: OfferBody, now: float = 0.0, *, settled: bool = False) -> list[ev.Command]:
    return node.handle(ev.OfferArrived(offer=offer, signed=builders.signed(), asked_at=now, settled=settled), now)


def happen(
    node: Node, key: LeaseKey, *events: Event, now: float = 1.0, reason: Reason | None = None
) -> list[ev.Command]:
    commands: list[ev.Command] = []
    for event in events:
        commands += node.handle(ev.Happened(key=key, event=event, reason=reason), now)
    return commands


def kinds(commands: list[ev.Command]) -> list[type]:
    return [type(c) for c in commands if not isinstance(c, ev.AttemptMoved | ev.Closed | ev.NodeMoved)]


WORK = (Event.START_CONFIRMED, Event.STAGED, Event.GENERATED, Event.PROVED, Event.STORED, Event.RECEIPTED)


def test_an_offer_passes_all_stages_in_order() -> None:
    node, offer = serving(), builders.offer()
    assert kinds(arrive(node, offer)) == [ev.ConfirmStart]
    assert kinds(happen(node, offer.key, *WORK)) == [ev.Stage, ev.Generate, ev.Prove, ev.StoreResult]
    assert node.attempts == {}
    assert node.counts[Outcome.SUCCEEDED] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"node_id": "another"}, Reason.WRONG_NODE),
        ({"lease_ms": 2_500}, Reason.LEASE_TOO_SHORT),
        ({"lease_ms": -1}, Reason.LEASE_TOO_SHORT),
        ({"deadline_ms": 0}, Reason.DEADLINE_PASSED),
        ({"attempt": 0}, Reason.MALFORMED_OFFER),
        ({"fence": -3}, Reason.MALFORMED_OFFER),
        ({"idem_key": ""}, Reason.MALFORMED_OFFER),
        ({"spec": builders.task(model="sha256:" + "00" * 32)}, Reason.UNKNOWN_MODEL),
        ({"spec": builders.task(task_input=EmbeddingInput(texts=("a",)))}, Reason.UNSUPPORTED_KIND),
        ({"spec": builders.task(task_input=EmbeddingInput(texts=()))}, Reason.MALFORMED_OFFER),
        ({"spec": builders.task(max_tokens=512)}, Reason.CONTEXT_TOO_LONG),
        ({"spec": builders.task(max_tokens=0)}, Reason.MALFORMED_OFFER),
        ({"spec": builders.task(seed=0xFFFFFFFF)}, Reason.UNSUPPORTED_SAMPLING),
        ({"spec": builders.task(top_p_micros=0)}, Reason.UNSUPPORTED_SAMPLING),
        ({"spec": builders.task(temperature_micros=-1)}, Reason.UNSUPPORTED_SAMPLING),
        ({"spec": builders.task(stop=("",))}, Reason.UNSUPPORTED_SAMPLING),
    ],
)
def test_what_this_node_cannot_do_is_declined_with_the_reason(change: dict, reason: Reason) -> None:
    node, offer = serving(), builders.offer(**change)
    commands = arrive(node, offer)
    assert kinds(commands) == [ev.ReturnOffer]
    assert commands[0].reason is reason  # type: ignore[union-attr]
    assert node.attempts == {}


def test_a_pool_never_gets_more_than_its_slots() -> None:
    node = serving(builders.pool(slots=2))
    for number in range(2):
        assert kinds(arrive(node, builders.offer(f"t{number}"))) == [ev.ConfirmStart]
    assert node.credit("main") is None
    [declined] = arrive(node, builders.offer("t2"))
    assert isinstance(declined, ev.ReturnOffer)
    assert declined.reason is Reason.NO_CREDIT


def test_a_slot_is_free_again_as_soon_as_the_engine_has_computed() -> None:
    node, offer = serving(builders.pool(slots=1)), builders.offer()
    arrive(node, offer)
    happen(node, offer.key, Event.START_CONFIRMED, Event.STAGED, Event.GENERATED)
    assert node.attempts[offer.key].state is State.PROVING
    assert node.free("main") == 1


def test_the_same_offer_twice_is_a_replay_even_after_it_closed() -> None:
    node, offer = serving(), builders.offer()
    arrive(node, offer)
    happen(node, offer.key, *WORK)
    [declined] = arrive(node, offer)
    assert isinstance(declined, ev.ReturnOffer)
    assert declined.reason is Reason.REPLAYED_OFFER


def test_an_offer_that_the_outbox_knows_is_a_replay() -> None:
    [declined] = arrive(serving(), builders.offer(), settled=True)
    assert isinstance(declined, ev.ReturnOffer)
    assert declined.reason is Reason.REPLAYED_OFFER


def test_the_lease_counts_from_the_asking_and_ends_a_margin_early() -> None:
    node, offer = serving(), builders.offer(lease_ms=40_000)
    node.handle(ev.OfferArrived(offer=offer, signed=builders.signed(), asked_at=10.0), 12.0)
    assert node.attempts[offer.key].lease_deadline == 10.0 + 40.0 - 4.0


def test_an_expired_lease_stops_the_work_without_a_word_from_the_coordinator() -> None:
    node, offer = serving(), builders.offer()
    arrive(node, offer)
    happen(node, offer.key, Event.START_CONFIRMED, Event.STAGED)
    due = node.next_deadline()
    assert due is not None
    assert node.handle(ev.Ticked(), due - 0.001) == []
    commands = node.handle(ev.Ticked(), due)
    assert kinds(commands) == [ev.StopWork]
    assert node.closed[-1].reason is Reason.LEASE_EXPIRED


def test_a_renewed_lease_lives_on() -> None:
    node, offer = serving(), builders.offer()
    arrive(node, offer)
    ack = ev.BeatAcked(asked_at=30.0, lease_ms=40_000, renewed=(offer.key,), lost=(), cancelled=())
    node.handle(ack, 30.1)
    assert node.handle(ev.Ticked(), 50.0) == []
    assert node.attempts[offer.key].lease_deadline == 66.0


def test_a_passed_deadline_reports_instead_of_going_on() -> None:
    node, offer = serving(), builders.offer(deadline_ms=5_000)
    arrive(node, offer)
    happen(node, offer.key, Event.START_CONFIRMED, Event.STAGED)
    assert kinds(node.handle(ev.Ticked(), 5.0)) == [ev.StopWork, ev.StoreResult]
    assert node.attempts[offer.key].outcome is Outcome.EXPIRED


def test_a_computed_result_is_delivered_although_its_lease_ran_out() -> None:
    node, offer = serving(), builders.offer()
    arrive(node, offer)
    happen(node, offer.key, Event.START_CONFIRMED, Event.STAGED, Event.GENERATED)
    assert node.handle(ev.Ticked(), 10_000.0) == []
    assert kinds(happen(node, offer.key, Event.PROVED)) == [ev.StoreResult]
    assert node.attempts[offer.key].outcome is Outcome.SUCCEEDED


def test_a_lease_that_the_coordinator_calls_lost_or_cancelled_is_stopped() -> None:
    for lost, outcome in ((True, Outcome.EXPIRED), (False, Outcome.CANCELLED)):
        node, offer = serving(), builders.offer()
        arrive(node, offer)
        happen(node, offer.key, Event.START_CONFIRMED, Event.STAGED)
        keys, none = (offer.key,), ()
        ack = ev.BeatAcked(
            asked_at=1.0, lease_ms=40_000, renewed=(), lost=keys if lost else none, cancelled=none if lost else keys
        )
        assert kinds(node.handle(ack, 1.0)) == [ev.StopWork]
        assert node.closed[-1].outcome is outcome


def test_after_a_reconnect_only_wanted_leases_go_on() -> None:
    node, kept, dropped = serving(), builders.offer("kept"), builders.offer("dropped")
    for offer in (kept, dropped):
        arrive(node, offer)
        happen(node, offer.key, Event.START_CONFIRMED, Event.STAGED)
    node.handle(ev.Welcomed(claimed=(kept.key, dropped.key), wanted=(kept.key,)), 2.0)
    assert list(node.attempts) == [kept.key]


def test_an_attempt_that_began_after_the_hello_is_not_taken_for_unwanted() -> None:
    node, offer = serving(), builders.offer()
    arrive(node, offer)
    node.handle(ev.Welcomed(claimed=(), wanted=()), 2.0)
    assert list(node.attempts) == [offer.key]


def test_a_drain_lets_work_finish_and_takes_nothing_new() -> None:
    node, offer = serving(), builders.offer()
    arrive(node, offer)
    node.handle(ev.DrainAsked(limit_s=60.0), 0.0)
    assert node.credit("main") is None
    [declined] = arrive(node, builders.offer("late"))
    assert isinstance(declined, ev.ReturnOffer)
    assert declined.reason is Reason.DRAINING
    happen(node, offer.key, *WORK)
    assert node.state is NodeState.DRAINED
    assert node.counts[Outcome.SUCCEEDED] == 1


def test_a_drain_hands_back_at_its_limit_what_still_runs() -> None:
    node, staged, leased = serving(), builders.offer("staged"), builders.offer("leased")
    for offer in (staged, leased):
        arrive(node, offer)
    happen(node, staged.key, Event.START_CONFIRMED, Event.STAGED)
    node.handle(ev.DrainAsked(limit_s=5.0), 0.0)
    commands = node.handle(ev.Ticked(), 5.0)
    assert kinds(commands) == [ev.StopWork, ev.StoreResult, ev.StopWork, ev.ReturnOffer]
    assert node.attempts[staged.key].outcome is Outcome.HANDED_BACK
    happen(node, staged.key, Event.STORED, Event.RECEIPTED)
    assert node.state is NodeState.DRAINED


def test_an_idle_node_is_drained_at_once_and_can_resume() -> None:
    node = serving()
    node.handle(ev.DrainAsked(limit_s=60.0), 0.0)
    assert node.state is NodeState.DRAINED
    node.handle(ev.ResumeAsked(), 1.0)
    assert node.credit("main") is not None


def test_a_second_drain_can_only_shorten_the_limit() -> None:
    node = serving()
    arrive(node, builders.offer())
    node.handle(ev.DrainAsked(limit_s=60.0), 0.0)
    node.handle(ev.DrainAsked(limit_s=600.0), 1.0)
    assert node.next_deadline() == 36.0  # the lease; the drain is due at 60
    node.handle(ev.DrainAsked(limit_s=0.0), 2.0)
    assert node.next_deadline() == 2.0


def test_a_paused_node_finishes_what_runs_and_says_why_it_takes_nothing() -> None:
    node, offer = serving(), builders.offer()
    arrive(node, offer)
    node.handle(ev.PauseAsked(), 0.0)
    assert [gate.reason for gate in node.gates()] == [Reason.PAUSED]
    happen(node, offer.key, *WORK)
    assert node.counts[Outcome.SUCCEEDED] == 1


def test_a_shut_gate_stops_credits_and_names_its_reason_until_it_opens() -> None:
    node = serving()
    node.handle(ev.GateChanged(reason=Reason.STORAGE_FULL, shut=True, detail="no space"), 0.0)
    assert node.credit("main") is None
    assert [(g.reason, g.detail) for g in node.gates()] == [(Reason.STORAGE_FULL, "no space")]
    node.handle(ev.GateChanged(reason=Reason.STORAGE_FULL, shut=False), 1.0)
    assert node.gates() == []


def test_a_node_without_a_ready_pool_says_which_and_why() -> None:
    node = serving(builders.pool(ready=False, detail="the model is being read"))
    assert node.state is NodeState.STARTING
    assert [(g.reason, g.detail) for g in node.gates()] == [(Reason.POOL_NOT_READY, "main: the model is being read")]
    assert node.next_deadline() is None


class NodeMachine(RuleBasedStateMachine):
    """Random events in random order, as races and a lying coordinator make them."""

    @initialize(slots=st.integers(1, 3))
    def begin(self, slots: int) -> None:
        self.slots = slots
        self.node = serving(builders.pool(slots=slots))
        self.now = 0.0
        self.number = 0
        self.arrived = 0

    @rule(lease_ms=st.integers(0, 60_000), deadline_ms=st.integers(-5, 90_000))
    def offer(self, lease_ms: int, deadline_ms: int) -> None:
        self.number += 1
        arrive(self.node, builders.offer(f"t{self.number}", lease_ms=lease_ms, deadline_ms=deadline_ms), self.now)
        self.arrived += 1

    @precondition(lambda self: self.node.attempts)
    @rule(data=st.data())
    def work_goes_on(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(sorted(self.node.attempts.values(), key=lambda a: a.key.task_id)))
        steps = {
            State.LEASED: (Event.START_CONFIRMED, Event.START_REFUSED, Event.UNFIT),
            State.STAGING: (Event.STAGED, Event.FAILED),
            State.RUNNING: (Event.GENERATED, Event.FAILED),
            State.PROVING: (Event.PROVED, Event.FAILED),
            State.REPORTING: (Event.STORED, Event.RECEIPTED, Event.GENERATED, Event.FAILED),
        }
        happen(
            self.node,
            attempt.key,
            data.draw(st.sampled_from(steps[attempt.state])),
            now=self.now,
            reason=Reason.ABORTED,
        )

    @rule(data=st.data(), kind=st.sampled_from(["lost", "cancelled", "renewed"]))
    def beat(self, data: st.DataObject, kind: str) -> None:
        keys = (
            tuple(data.draw(st.sets(st.sampled_from(sorted(self.node.attempts, key=str)))))
            if self.node.attempts
            else ()
        )
        sets = {name: keys if name == kind else () for name in ("lost", "cancelled", "renewed")}
        self.node.handle(ev.BeatAcked(asked_at=self.now, lease_ms=40_000, **sets), self.now)

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.node.handle(ev.Ticked(), self.now)

    @rule(
        event=st.sampled_from(
            [ev.PauseAsked(), ev.ResumeAsked(), ev.DrainAsked(limit_s=5.0), ev.AbortAsked(reason=Reason.ABORTED)]
        )
    )
    def owner(self, event: ev.NodeEvent) -> None:
        self.node.handle(event, self.now)

    @rule(ready=st.booleans())
    def pool(self, ready: bool) -> None:
        self.node.handle(ev.PoolChanged(pool=builders.pool(slots=self.slots, ready=ready)), self.now)

    @invariant()
    def credits_are_conserved(self) -> None:
        busy = sum(a.state in OCCUPIES_SLOT for a in self.node.attempts.values())
        assert busy == self.node.busy("main") <= self.slots
        credit = self.node.credit("main")
        assert credit is None or busy + credit.count <= self.slots

    @invariant()
    def every_offer_is_alive_or_ended_exactly_once(self) -> None:
        assert len(self.node.attempts) + sum(self.node.counts.values()) == self.arrived

    @invariant()
    def nothing_works_past_its_lease(self) -> None:
        self.node.handle(ev.Ticked(), self.now)
        for attempt in self.node.attempts.values():
            assert attempt.state not in OCCUPIES_SLOT or attempt.lease_deadline > self.now

    @invariant()
    def a_drained_node_holds_nothing(self) -> None:
        assert self.node.state is not NodeState.DRAINED or not self.node.attempts


TestNodeMachine = NodeMachine.TestCase
TestNodeMachine.settings = settings(max_examples=60, stateful_step_count=40)
