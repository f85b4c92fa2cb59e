"""Whatever nodes, requesters, time and crashes do, in any order, these hold."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from agent.core import wire
from agent.core.model import Outcome, Reason
from agent.core.wire import ReceiptStatus
from agent.devnet.core import effects, presence
from agent.devnet.core.records import ENDED, TaskState
from agent.devnet.core.rules import LEASES_PER_SLOT
from tests import builders
from tests.devnet.world import POOLS, Actor, World

NODES = st.integers(0, 2)
ENDINGS = st.sampled_from(
    [
        (Outcome.FAILED, Reason.ENGINE_CRASHED),
        (Outcome.EXPIRED, Reason.LEASE_EXPIRED),
        (Outcome.HANDED_BACK, Reason.DRAIN_LIMIT),
        (Outcome.CANCELLED, Reason.CANCELLED_BY_REQUESTER),
    ]
)


class CoordinatorMachine(RuleBasedStateMachine):
    """A coordinator under everything that the protocol allows, and some things that it does not."""

    tasks = Bundle("tasks")
    offers = Bundle("offers")

    @initialize()
    def begin(self) -> None:
        self.world = World(pause_after_failure_s=3.0, pause_after_decline_s=7.0)
        self.nodes = [self.world.enrolled(seed) for seed in range(3)]
        self.fences: list[int] = []
        self.parked: dict[int, tuple[int, int, wire.Offers | None]] = {}
        self.ended: dict[str, TaskState] = {}

    def _granted(self, node: Actor, offers: list[wire.OfferBody], most: int) -> list[tuple[Actor, wire.OfferBody]]:
        assert len(offers) <= most
        for offer in offers:
            assert offer.node_id == node.node_id
            assert all(offer.fence > fence for fence in self.fences), "a fence went back"
            self.fences.append(offer.fence)
        return [(node, offer) for offer in offers]

    @rule(target=tasks)
    def submit(self) -> str:
        return self.world.submit()

    @rule(target=offers, node=NODES, count=st.integers(1, 3))
    def pull(self, node: int, count: int):
        return multiple(*self._granted(self.nodes[node], self.world.pull(self.nodes[node], count), count))

    @rule(node=NODES, count=st.integers(1, 2))
    def park(self, node: int, count: int) -> None:
        credit = wire.Credit(pool="main", model_digest=builders.MODEL, count=count)
        pull_id, offers = self.world.ask(self.nodes[node], (credit,), 25.0)
        self.parked[pull_id] = node, count, offers

    @rule(target=offers)
    def wake(self):
        """Nodes read the answers to what they had parked."""
        out = []
        for pull_id, (node, count, offers) in list(self.parked.items()):
            answer = offers if offers is not None else self.world.granted.get(pull_id)
            if answer is not None:
                del self.parked[pull_id]
                out.append((self.nodes[node], self.world.opened(answer), count))
        out.sort(key=lambda it: [offer.fence for offer in it[1]])
        flat = [(actor, offer) for actor, opened, count in out for offer in self._checked(actor, opened, count)]
        return multiple(*flat)

    def _checked(self, node: Actor, offers: list[wire.OfferBody], most: int) -> list[wire.OfferBody]:
        assert len(offers) <= most
        assert not {offer.fence for offer in offers} & set(self.fences)
        self.fences += [offer.fence for offer in offers]
        return offers

    @rule(lease=offers)
    def start(self, lease) -> None:
        node, offer = lease
        held = self.world.book.held_by(node.node_id, offer.key) is not None
        assert self.world.start(node, offer.key).ok is held

    @rule(lease=offers)
    def beat(self, lease) -> None:
        node, offer = lease
        ack = self.world.beat(node, offer.key)
        assert len(ack.renewed) + len(ack.lost) + len(ack.cancelled) == 1

    @rule(lease=offers, thief=NODES)
    def deliver(self, lease, thief: int) -> None:
        node, offer = lease
        task = self.world.book.tasks[offer.task.task_id]
        current = task.progress.lease.key == offer.key
        before = task.progress.state
        receipt = self.world.deliver(node, node.success(offer))
        if receipt.status is ReceiptStatus.ACCEPTED:
            assert current
            assert before in (TaskState.LEASED, TaskState.QUEUED)
        other = self.nodes[thief]
        if other is not node:
            stolen = self.world.deliver(other, other.success(offer))
            assert stolen.status in (ReceiptStatus.REJECTED, ReceiptStatus.STALE)

    @rule(lease=offers, ending=ENDINGS)
    def end(self, lease, ending) -> None:
        node, offer = lease
        receipt = self.world.deliver(node, node.ending(offer, *ending))
        assert receipt.amount_micros == 0 or receipt.status is ReceiptStatus.DUPLICATE

    @rule(lease=consumes(offers), reason=st.sampled_from([Reason.DRAINING, Reason.UNKNOWN_MODEL]))
    def decline(self, lease, reason: Reason) -> None:
        self.world.decline(lease[0], lease[1].key, reason)

    @rule(task_id=tasks)
    def cancel(self, task_id: str) -> None:
        assert self.world.cancel(task_id) in ENDED

    @rule(node=NODES, running=st.lists(offers, max_size=3))
    def hello(self, node: int, running) -> None:
        actor = self.nodes[node]
        keys = tuple(offer.key for owner, offer in running if owner is actor)
        self.world.hello(actor, running=keys)
        assert {self.world.book.tasks[it].progress.lease.key for it in self._leases(actor)} <= set(keys)

    @rule(node=NODES)
    def bye(self, node: int) -> None:
        actor = self.nodes[node]
        self.world.take(presence.bye(self.world.book, self.world.when, actor.node_id, wire.Bye()))

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 39.0, 41.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.sweep(seconds)

    @rule()
    def crash(self) -> None:
        self.world = self.world.restarted()
        self.parked.clear()

    def _leases(self, actor: Actor) -> list[str]:
        return list(self.world.book.nodes[actor.node_id].leases)

    @invariant()
    def one_live_lease_a_task(self) -> None:
        book = self.world.book
        live = {task_id for task_id, task in book.tasks.items() if task.progress.state is TaskState.LEASED}
        held = [task_id for node in book.nodes.values() for task_id in node.leases]
        assert sorted(held) == sorted(live)
        queued = [task_id for line in book.queue.lines() for _, task_id in book.queue.line(line)]
        assert sorted(queued) == sorted(it for it, t in book.tasks.items() if t.progress.state is TaskState.QUEUED)
        assert len(queued) == len(book.queue)

    @invariant()
    def what_has_ended_stays_ended(self) -> None:
        for task_id, task in self.world.book.tasks.items():
            assert self.ended.get(task_id, task.progress.state) is task.progress.state
            if task.progress.state in ENDED:
                self.ended[task_id] = task.progress.state

    @invariant()
    def every_task_is_paid_once_exactly_when_it_is_settled(self) -> None:
        lines = [it.line for it in self.world.writes if isinstance(it, effects.SaveLedgerLine)]
        paid = Counter(line.task_id for line in lines)
        settled = {it for it, task in self.world.book.tasks.items() if task.progress.state is TaskState.SETTLED}
        assert paid == Counter(dict.fromkeys(settled, 1))

    @invariant()
    def what_is_written_is_what_is_known(self) -> None:
        again = self.world.restarted().book
        assert {it: task.progress for it, task in again.tasks.items()} == {
            it: task.progress for it, task in self.world.book.tasks.items()
        }
        assert again.fence == self.world.book.fence

    @invariant()
    def nobody_waits_while_there_is_work_for_him(self) -> None:
        book = self.world.book
        for model, kind in book.queue.lines():
            for parked in book.waiting.line(model):
                if len(book.nodes[parked.node_id].leases) >= LEASES_PER_SLOT * POOLS[0].slots:
                    continue
                for _, task_id in book.queue.line((model, kind)):
                    assert book.tasks[task_id].avoid.get(parked.node_id, 0.0) > self.world.now

    @invariant()
    def no_node_has_more_than_it_has_room_for(self) -> None:
        for node in self.world.book.nodes.values():
            assert len(node.leases) == sum(node.busy.values()) <= LEASES_PER_SLOT * POOLS[0].slots


TestCoordinator = CoordinatorMachine.TestCase
TestCoordinator.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
