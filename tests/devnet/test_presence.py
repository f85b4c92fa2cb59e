"""Enrolment, hello, beats, directives, goodbye."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.enrolment import reply_digest
from agent.core.model import LeaseKey
from agent.devnet.core import presence
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from agent.devnet.keys import verify
from tests import builders
from tests.devnet.world import Actor, World


def token_of(world: World, secret: str = "s" * 30, *, issue: bool = True) -> str:
    token = f"ga1.{secret}.{world.keys.public}"
    if issue:
        world.take(presence.issue_token(world.book, token))
    return token


def enrol(world: World, request: wire.EnrolRequest) -> wire.EnrolReply:
    return world.take(presence.enrol(world.book, world.when, request))


def test_a_token_enrols_a_node_and_the_reply_is_vouched_for() -> None:
    world, node = World(), Actor()
    token = token_of(world)
    reply = enrol(world, node.enrolment(token))
    assert reply.coordinator_key == world.keys.public
    assert verify(world.keys.public, reply.signature, reply_digest(token, node.keys.public, reply.node_id))


def test_a_token_is_used_up_by_the_first_node_but_answers_that_one_again() -> None:
    world, node = World(), Actor()
    token = token_of(world)
    reply = enrol(world, node.enrolment(token))
    world = world.restarted()
    assert enrol(world, node.enrolment(token)) == reply
    with pytest.raises(Refused, match="another node") as refused:
        enrol(world, Actor(2).enrolment(token))
    assert refused.value.code is wire.RefusalCode.BAD_TOKEN


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda request, world: {"token": token_of(world, "x" * 30, issue=False)}, "bad_signature"),
        (lambda request, world: {"token": "nonsense"}, "bad_token"),
        (lambda request, world: {"token": request.token[:-64] + "ab" * 32}, "bad_token"),
        (lambda request, world: {"node_key": Actor(7).keys.public}, "bad_signature"),
        (lambda request, world: {"node_key": "short"}, "bad_message"),
        (lambda request, world: {"signature": "00" * 64}, "bad_signature"),
        (lambda request, world: {"signature": request.signature.upper()}, "bad_signature"),
    ],
    ids=["another token", "nonsense", "another coordinator", "another key", "no key", "no signature", "upper case"],
)
def test_a_forged_enrolment_is_refused_and_the_token_stays_good(change: Any, code: str) -> None:
    world, node = World(), Actor()
    request = node.enrolment(token_of(world))
    with pytest.raises(Refused) as refused:
        enrol(world, msgspec.structs.replace(request, **change(request, world)))
    assert refused.value.code == code
    assert enrol(world, request).node_id == node.node_id


def test_a_token_that_was_never_issued_is_refused() -> None:
    world = World()
    with pytest.raises(Refused, match="never issued") as refused:
        enrol(world, Actor().enrolment(token_of(world, issue=False)))
    assert refused.value.code is wire.RefusalCode.BAD_TOKEN


def test_no_token_is_ever_written_down() -> None:
    world = World()
    secret = "verysecret" * 3
    enrol(world, Actor().enrolment(token_of(world, secret)))
    assert secret not in repr(world.writes)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"node_id": "n-none"}, "unknown_node"),
        ({"signature": "00" * 64}, "bad_signature"),
        ({"proto": (2, 3)}, "unsupported_version"),
    ],
)
def test_a_hello_that_does_not_prove_who_speaks_is_refused(changes: Any, code: str) -> None:
    world = World()
    node = world.enrolled()
    with pytest.raises(Refused) as refused:
        world.hello(node, **changes)
    assert refused.value.code == code


def test_a_hello_over_another_nonce_is_refused() -> None:
    world = World()
    node = world.enrolled()
    with pytest.raises(Refused, match="this nonce"):
        presence.hello(world.book, world.when, "aa" * 32, node.hello("bb" * 32, world.keys.public))


def test_a_hello_signed_for_another_coordinator_is_refused() -> None:
    world = World()
    node = world.enrolled()
    hello = node.hello("aa" * 32, "bb" * 32)
    with pytest.raises(Refused, match="this coordinator's key"):
        presence.hello(world.book, world.when, "aa" * 32, hello)


def test_hello_frees_what_the_node_neither_runs_nor_delivers_and_keeps_the_rest() -> None:
    world = World(lease_s=40.0)
    node, other = world.enrolled(1), world.enrolled(2)
    for _ in range(3):
        world.submit()
    runs, unsent, gone = world.pull(node, 3)
    world.now += 9.0
    stranger = LeaseKey(task_id="t-none", attempt=1, fence=1)
    assert world.hello(node, running=(runs.key, stranger), unsent=(unsent.key,)) == (runs.key,)
    assert [world.state(it.task.task_id) for it in (runs, unsent, gone)] == ["leased", "leased", "queued"]
    assert world.book.tasks[gone.task.task_id].progress.failures == 0
    assert [it.task.task_id for it in world.pull(other, 3)] == [gone.task.task_id]
    world.sweep(39.0)
    assert world.state(unsent.task.task_id) is TaskState.LEASED


def test_what_a_node_came_back_without_it_does_not_get_again_at_once() -> None:
    world = World()
    node = world.enrolled()
    world.submit()
    world.pull(node)
    world.hello(node)
    assert world.pull(node) == []
    world.sweep(world.book.rules.pause_while_busy_s)
    assert len(world.pull(node)) == 1


def test_a_new_hello_answers_the_pull_that_the_broken_connection_left_behind() -> None:
    world = World()
    node = world.enrolled()
    pull_id = world.park(node)
    world.hello(node)
    assert world.granted == {pull_id: wire.Offers()}


def test_live_leases_survive_a_restart_for_their_full_time() -> None:
    world = World(lease_s=40.0)
    node = world.enrolled()
    task_id = world.submit()
    (offer,) = world.pull(node)
    world.start(node, offer.key)
    world = world.restarted()
    world.sweep(39.0)
    assert world.state(task_id) is TaskState.LEASED
    assert world.hello(node, running=(offer.key,)) == (offer.key,)
    world.sweep(39.0)
    assert world.deliver(node, node.success(offer)).status is wire.ReceiptStatus.ACCEPTED


def test_a_lease_whose_node_never_comes_back_after_a_restart_counts_as_a_failed_attempt() -> None:
    world = World(lease_s=40.0)
    node = world.enrolled()
    task_id = world.submit()
    world.start(node, world.pull(node)[0].key)
    world = world.restarted()
    world.sweep(41.0)
    progress = world.book.tasks[task_id].progress
    assert (progress.state, progress.failures) == (TaskState.QUEUED, 1)
    assert progress.story[-1].detail == "the node was not heard of in time"


def test_a_deadline_goes_on_through_any_number_of_restarts() -> None:
    world = World()
    task_id = world.submit(deadline_s=60.0)
    for _ in range(3):
        world.wall += 19
        world = world.restarted()
    world.sweep(2.9)
    assert world.state(task_id) is TaskState.QUEUED
    world.sweep(0.2)
    assert world.state(task_id) is TaskState.FAILED


@pytest.mark.parametrize(("away_s", "left_s"), [(-1000, 60.0), (0, 60.0), (59, 1.0), (10_000, 0.0)])
def test_a_wall_clock_that_was_set_costs_a_task_no_more_than_its_deadline_and_gives_it_nothing(
    away_s: int, left_s: float
) -> None:
    world = World()
    task_id = world.submit(deadline_s=60.0)
    world.wall += away_s
    world = world.restarted()
    assert world.book.tasks[task_id].due - world.now == left_s


def test_bye_frees_every_lease_of_the_node_at_once() -> None:
    world = World()
    node, other = world.enrolled(1), world.enrolled(2)
    world.submit()
    world.pull(node)
    pull_id = world.park(other)
    world.take(presence.bye(world.book, world.when, node.node_id, wire.Bye(reason="drained")))
    assert len(world.granted[pull_id].offers) == 1


def direct(world: World, node: Actor, kind: str, *, streaming: bool = False) -> wire.Directive:
    directive = wire.Directive(kind=kind)
    world.take(presence.direct(world.book, node.node_id, directive, streaming=streaming))
    return directive


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [("drain", "serving", "draining"), ("pause", "serving", "paused"), ("resume", "paused", "serving")],
)
def test_a_directive_is_repeated_until_a_beat_shows_that_it_is_heeded(kind: str, before: str, after: str) -> None:
    world = World()
    node = world.enrolled()
    directive = direct(world, node, kind)
    world = world.restarted()
    assert world.beat(node, state=before).directives == (directive,)
    assert world.beat(node, state=before).directives == (directive,), "the first answer was lost"
    assert world.beat(node, state=after).directives == ()
    assert world.beat(node, state=before).directives == (), "its owner has changed it since"
    assert world.restarted().beat(node, state=before).directives == ()


@pytest.mark.parametrize(("kind", "state"), [("drain", "draining"), ("pause", "paused")])
def test_a_node_that_its_owner_has_paused_already_is_asked_all_the_same(kind: str, state: str) -> None:
    world = World()
    node = world.enrolled()
    directive = direct(world, node, kind)
    assert world.beat(node, state=state).directives == (directive,)
    assert world.beat(node, state=state).directives == ()


def test_a_fingerprint_that_was_asked_for_is_the_one_after_the_question() -> None:
    world = World()
    node = world.enrolled()
    directive = direct(world, node, "refingerprint")
    assert world.beat(node, fingerprint=builders.fingerprint()).directives == (directive,)
    assert world.beat(node).directives == (directive,)
    assert world.beat(node, fingerprint=builders.fingerprint()).directives == ()


def test_a_node_that_never_heeds_a_directive_is_not_told_for_ever() -> None:
    world = World()
    node = world.enrolled()
    direct(world, node, "drain")
    told = [bool(world.beat(node, state="serving").directives) for _ in range(presence.TELLS + 2)]
    assert told == [True] * presence.TELLS + [False] * 2


def test_of_drain_pause_and_resume_the_latest_counts() -> None:
    world = World()
    node = world.enrolled()
    fresh, _, resume = [direct(world, node, kind) for kind in ("refingerprint", "pause", "resume")]
    assert world.beat(node, state="paused").directives == (fresh, resume)


def test_a_node_that_left_because_it_was_told_to_is_not_told_when_it_comes_back() -> None:
    world = World()
    node = world.enrolled()
    direct(world, node, "drain")
    assert world.beat(node, state="serving").directives
    world.take(presence.bye(world.book, world.when, node.node_id, wire.Bye()))
    world.hello(node)
    assert world.beat(node, state="serving").directives == ()


def test_a_directive_for_a_node_with_a_stream_is_pushed_and_repeated_when_the_push_is_lost() -> None:
    world = World()
    node = world.enrolled()
    pause = direct(world, node, "pause", streaming=True)
    assert [it.push for it in world.pushed] == [wire.Directed(directive=pause)]
    assert world.beat(node, state="serving").directives == (pause,)
    assert world.beat(node, state="paused").directives == ()


def test_a_directive_that_no_node_knows_is_refused() -> None:
    world = World()
    node = world.enrolled()
    with pytest.raises(Refused, match="drain"):
        presence.direct(world.book, node.node_id, wire.Directive(kind="explode"), streaming=False)


def test_a_new_fingerprint_makes_a_parked_pull_fit_again() -> None:
    world = World()
    node = world.enrolled()
    wrong = builders.pool(model_digest="sha256:" + "00" * 32)
    world.beat(node, fingerprint=builders.fingerprint(pools=(wrong,)))
    pull_id = world.park(node)
    world.submit()
    assert world.granted == {}
    world.beat(node, fingerprint=builders.fingerprint(pools=(builders.pool(),)))
    assert len(world.granted[pull_id].offers) == 1


@pytest.mark.parametrize("state", ["draining", "drained", "paused"])
def test_a_beat_that_says_no_more_work_ends_the_parked_pull_at_once(state: str) -> None:
    world = World()
    node = world.enrolled()
    pull_id = world.park(node)
    world.beat(node, state="serving")
    assert pull_id not in world.granted
    world.beat(node, state=state)
    assert world.granted[pull_id] == wire.Offers()
    world.submit()
    assert world.granted == {pull_id: wire.Offers()}, "nothing is leased to it any more"
