"""Credits, grants, starts, declines, expiry: by tables and by hand-set time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.core import wire
from agent.core.model import EmbeddingInput, Reason
from agent.devnet.core import leasing
from agent.devnet.core.queue import Line, Queue
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import LEASES_PER_SLOT, MAX_LEASES, MAX_OFFERS_BYTES, Refused
from tests import builders
from tests.devnet.world import OTHER_MODEL, Actor, World


@pytest.mark.parametrize(("queued", "asked_for", "granted"), [(0, 1, 0), (1, 3, 1), (3, 2, 2), (5, 5, 5)])
def test_a_pull_never_gets_more_than_it_asked_for(queued: int, asked_for: int, granted: int) -> None:
    world = World()
    node = world.enrolled()
    for _ in range(queued):
        world.submit()
    assert len(world.pull(node, asked_for)) == granted


def test_tasks_are_granted_in_the_order_in_which_they_came_over_all_models() -> None:
    world = World()
    node = world.enrolled()
    order = [world.submit(), world.submit(model=OTHER_MODEL), world.submit()]
    named = {"other": OTHER_MODEL, "main": builders.MODEL}
    credits = tuple(wire.Credit(pool=name, model_digest=model, count=2) for name, model in named.items())
    offers = world.opened(world.ask(node, credits)[1])
    assert [it.task.task_id for it in offers] == order


def test_a_task_goes_only_to_a_credit_for_its_model() -> None:
    world = World()
    node = world.enrolled()
    world.submit(model=OTHER_MODEL)
    assert world.pull(node) == []


def test_a_pool_that_does_not_do_a_kind_is_passed_over_for_the_next_task() -> None:
    world = World()
    node = world.enrolled()
    world.beat(node, fingerprint=builders.fingerprint(pools=(builders.pool(),)))
    world.submit(input=EmbeddingInput(texts=("a",)), max_tokens=0)
    chat = world.submit()
    assert [it.task.task_id for it in world.pull(node, 2)] == [chat]


def live(world: World, node: Actor) -> int:
    return len(world.book.nodes[node.node_id].leases)


def test_a_node_that_asks_for_more_than_it_advertised_gets_what_its_slots_hold_and_what_is_being_delivered() -> None:
    world = World()
    node = world.enrolled()
    world.hello(node, fingerprint=builders.fingerprint(pools=(builders.pool(slots=1),)))
    for _ in range(10):
        world.submit()
    assert len(world.pull(node, 1000)) == LEASES_PER_SLOT
    assert world.pull(node, 1000) == []
    assert live(world, node) == LEASES_PER_SLOT


def test_two_credits_for_one_pool_do_not_double_its_room() -> None:
    world = World()
    node = world.enrolled()
    world.hello(node, fingerprint=builders.fingerprint(pools=(builders.pool(slots=1),)))
    for _ in range(10):
        world.submit()
    credits = (wire.Credit(pool="main", model_digest=builders.MODEL, count=5),) * 2
    assert len(world.opened(world.ask(node, credits)[1])) == LEASES_PER_SLOT


def test_no_node_holds_more_than_a_thousand_leases_whatever_it_advertises() -> None:
    world = World()
    node = world.enrolled()
    world.hello(node, fingerprint=builders.fingerprint(pools=(builders.pool(slots=1 << 40),)))
    for _ in range(MAX_LEASES + 5):
        world.submit()
    while world.pull(node, MAX_LEASES):
        pass
    assert live(world, node) == MAX_LEASES


def test_a_pool_gets_nothing_before_it_is_advertised_and_its_parked_pull_at_once_when_it_is() -> None:
    world = World()
    node = world.enrolled()
    world.hello(node, fingerprint=builders.fingerprint())
    world.submit()
    pull_id = world.park(node)
    world.beat(node, fingerprint=builders.fingerprint(pools=(builders.pool(),)))
    assert len(world.granted[pull_id].offers) == 1


def test_a_full_pools_parked_pull_is_served_when_one_of_its_leases_ends() -> None:
    world = World()
    node = world.enrolled()
    world.hello(node, fingerprint=builders.fingerprint(pools=(builders.pool(slots=1),)))
    for _ in range(LEASES_PER_SLOT + 1):
        world.submit()
    first, *_ = world.pull(node, 10)
    pull_id = world.park(node)
    world.deliver(node, node.success(first))
    assert len(world.granted[pull_id].offers) == 1


class SearchedQueue(Queue):
    """Counts how often it is searched."""

    searches = 0

    def line(self, line: Line) -> Iterator[tuple[int, str]]:
        self.searches += 1
        return super().line(line)


def test_a_submit_looks_at_the_new_task_alone_however_many_wait_that_nobody_can_do() -> None:
    world = World()
    world.book.queue = queue = SearchedQueue()
    for seed in range(3):
        world.park(world.enrolled(seed))
    before = queue.searches
    for _ in range(50):
        world.submit(input=EmbeddingInput(texts=("a",)), max_tokens=0)
    world.sweep(0.25)
    assert queue.searches == before
    world.submit()
    assert queue.searches > before


def test_deadlines_of_tasks_that_are_over_do_not_pile_up_and_those_of_others_still_ring() -> None:
    world = World()
    waits = world.submit(deadline_s=600.0)
    for _ in range(3000):
        world.cancel(world.submit(deadline_s=86_400.0))
    assert len(world.book.alarms) < 1100
    world.sweep(600.0)
    assert world.state(waits) is TaskState.FAILED


def test_a_reply_never_outgrows_a_message_however_many_tasks_it_could_hold() -> None:
    world = World()
    node = world.enrolled()
    for _ in range(6):
        world.submit(text='"' * 100_000)
    signed = world.ask(node, (wire.Credit(pool="main", model_digest=builders.MODEL, count=6),))[1]
    assert signed is not None
    assert 1 <= len(signed.offers) < 6
    frame = wire.encode(wire.DownFrame(msg=signed, re=1))
    assert len(frame) <= wire.MAX_MESSAGE_BYTES
    assert len(frame) > MAX_OFFERS_BYTES / 2


def test_the_fence_rises_with_every_lease_and_survives_a_restart() -> None:
    world = World(pause_after_failure_s=0.0)
    node = world.enrolled()
    world.submit()
    world.submit()
    fences = [it.fence for it in world.pull(node, 2)]
    world.sweep(60.0)
    fences += [it.fence for it in world.pull(node, 2)]
    world = world.restarted()
    world.sweep(60.0)
    fences += [it.fence for it in world.pull(node, 2)]
    assert len(fences) == 6
    assert fences == sorted(set(fences))


def test_an_offer_that_is_not_confirmed_expires_faster_and_costs_the_task_no_attempt() -> None:
    world = World(unstarted_s=10.0, lease_s=40.0)
    node, other = world.enrolled(1), world.enrolled(2)
    task_id = world.submit()
    (offer,) = world.pull(node)
    world.sweep(9.9)
    assert world.state(task_id) is TaskState.LEASED
    world.sweep(0.2)
    assert world.state(task_id) is TaskState.QUEUED
    assert not world.start(node, offer.key).ok
    assert world.book.tasks[task_id].progress.failures == 0
    assert len(world.pull(other)) == 1


def test_a_started_lease_lives_as_long_as_beats_renew_it_and_no_longer() -> None:
    world = World(lease_s=40.0)
    node = world.enrolled()
    task_id = world.submit()
    (offer,) = world.pull(node)
    assert world.start(node, offer.key) == wire.Confirmed(key=offer.key, ok=True, lease_ms=40_000)
    for _ in range(5):
        world.sweep(39.0)
        assert world.beat(node, offer.key).renewed == (offer.key,)
    world.sweep(40.1)
    assert world.state(task_id) is TaskState.QUEUED
    assert world.beat(node, offer.key).lost == (offer.key,)


def test_a_task_fails_with_its_story_after_the_last_attempt() -> None:
    world = World(max_attempts=2, pause_after_failure_s=0.0)
    node = world.enrolled()
    task_id = world.submit()
    for _ in range(2):
        (offer,) = world.pull(node)
        world.start(node, offer.key)
        world.sweep(50.0)
    progress = world.book.tasks[task_id].progress
    assert progress.state is TaskState.FAILED
    assert [episode.reason for episode in progress.story] == [Reason.LEASE_EXPIRED] * 2
    assert "2 attempts" in progress.detail


def test_a_task_past_its_deadline_fails_and_its_node_is_told_to_stop() -> None:
    world = World()
    node = world.enrolled()
    task_id = world.submit(deadline_s=20.0)
    (offer,) = world.pull(node)
    assert offer.deadline_ms == 20_000
    world.start(node, offer.key)
    world.sweep(20.0)
    assert world.state(task_id) is TaskState.FAILED
    assert [it.push for it in world.pushed] == [wire.Cancel(key=offer.key, reason=Reason.DEADLINE_PASSED)]


def test_a_declined_task_is_free_at_once_but_not_for_the_node_that_declined_it() -> None:
    world = World()
    node, other = world.enrolled(1), world.enrolled(2)
    world.submit()
    (offer,) = world.pull(node)
    world.decline(node, offer.key)
    assert world.pull(node) == []
    (again,) = world.pull(other)
    assert (again.attempt, again.fence > offer.fence) == (2, True)


@pytest.mark.parametrize(
    ("reason", "after_s"), [(Reason.UNKNOWN_MODEL, 120.0), (Reason.DRAINING, 2.0), (Reason.DEADLINE_PASSED, 2.0)]
)
def test_how_long_a_decline_lasts_depends_on_whether_its_reason_passes(reason: Reason, after_s: float) -> None:
    world = World()
    node = world.enrolled()
    world.submit()
    world.decline(node, world.pull(node)[0].key, reason)
    world.sweep(after_s - 0.1)
    assert world.pull(node) == []
    world.sweep(0.1)
    assert len(world.pull(node)) == 1


def test_a_parked_pull_is_granted_the_task_that_comes() -> None:
    world = World()
    node = world.enrolled()
    pull_id = world.park(node)
    task_id = world.submit()
    assert [it.task.task_id for it in world.opened(world.granted[pull_id])] == [task_id]


def test_the_pull_that_waits_longest_is_served_first_and_the_others_sleep_on() -> None:
    world = World()
    first, second = world.park(world.enrolled(1)), world.park(world.enrolled(2))
    world.submit()
    assert list(world.granted) == [first]
    world.submit()
    assert list(world.granted) == [first, second]


def test_a_pull_that_waited_long_enough_is_answered_empty() -> None:
    world = World(lease_s=40.0)
    pull_id = world.park(world.enrolled(), wait_s=5.0)
    world.sweep(4.9)
    assert world.granted == {}
    world.sweep(0.2)
    assert world.granted == {pull_id: wire.Offers()}


def test_a_pull_waits_no_longer_than_half_a_lease() -> None:
    world = World(lease_s=10.0)
    pull_id = world.park(world.enrolled(), wait_s=25.0)
    world.sweep(5.0)
    assert pull_id in world.granted


def test_a_parked_pulls_offer_counts_its_deadline_from_when_the_node_asked() -> None:
    world = World()
    pull_id = world.park(world.enrolled())
    world.now += 12.0
    task_id = world.submit(deadline_s=10.0)
    (offer,) = world.opened(world.granted[pull_id])
    assert offer.deadline_ms == 22_000
    assert 1000.0 + offer.deadline_ms / 1000 == world.book.tasks[task_id].due


def test_a_withdrawn_pull_is_granted_nothing() -> None:
    world = World()
    pull_id = world.park(world.enrolled())
    leasing.withdraw(world.book, pull_id)
    task_id = world.submit()
    assert world.granted == {}
    assert world.state(task_id) is TaskState.QUEUED


def test_a_pause_that_ends_wakes_the_pull_that_waits_for_it() -> None:
    world = World()
    node = world.enrolled()
    world.submit()
    world.decline(node, world.pull(node)[0].key, Reason.DRAINING)
    pull_id = world.park(node)
    world.sweep(2.5)
    assert len(world.granted[pull_id].offers) == 1


@pytest.mark.parametrize(
    "message",
    [
        wire.Pull(credits=()),
        wire.Pull(credits=(wire.Credit(pool="main", model_digest=builders.MODEL, count=0),)),
        wire.Pull(credits=(wire.Credit(pool="main", model_digest=builders.MODEL, count=5000),)),
    ],
)
def test_a_pull_that_asks_for_nothing_or_for_the_world_is_refused(message: wire.Pull) -> None:
    world = World()
    node = world.enrolled()
    with pytest.raises(Refused) as refused:
        leasing.pull(world.book, world.when, node.node_id, 1, message)
    assert refused.value.code is wire.RefusalCode.BAD_MESSAGE


def test_no_node_can_start_or_decline_the_lease_of_another() -> None:
    world = World()
    node, thief = world.enrolled(1), world.enrolled(2)
    task_id = world.submit()
    (offer,) = world.pull(node)
    assert not world.start(thief, offer.key).ok
    world.decline(thief, offer.key)
    assert world.beat(thief, offer.key).lost == (offer.key,)
    assert world.state(task_id) is TaskState.LEASED
    assert world.start(node, offer.key).ok
