"""A challenge once it was asked: its clock, what a node may say and when, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from agent.core.attest.messages import (
    MatrixCommitted,
    MatrixReread,
    Standing,
)
from agent.core.attest.sizing import GPU_COLUMNS, commit_limit_s, reread_limit_s
from agent.devnet.core import effects as e
from agent.devnet.core.attesting import AGAIN_S, PATIENCE, STALE
from agent.devnet.core.rules import Refused
from tests.devnet.trial import CARD, EIGHT, EVERY_S, GIB, H200, ROOTS, Saying, Trial, gpus
from tests.devnet.world import Actor


def test_eight_h200_in_time_are_attested() -> None:
    world = Trial()

    found = world.judged(world.node(gpus(*EIGHT)), 8.0, 0.3)

    assert {it.standing for it in found.values()} == {Standing.ATTESTED}
    assert all(it.gops > 500_000 and it.memory_bytes > 60 * GIB for it in found.values())


def test_eight_h200_that_are_a_processor_fail_by_the_clock() -> None:
    """However right their rows are: a processor of two trillion operations a second needs hours for eight."""
    world = Trial()
    actor = world.node(gpus(*EIGHT))
    go = world.ready(actor, world.asked(actor))
    limit_s = max(commit_limit_s(CARD, work, GPU_COLUMNS, world.book.rules.attest_latency_s) for work in go.works)

    assert limit_s < 60
    world.now += PATIENCE * limit_s + 1
    world.take(world.attesting.sweep(world.when))
    assert {it.standing for it in world.found(actor).values()} == {Standing.NO_ANSWER}


def test_a_little_late_is_too_slow_and_says_by_how_much() -> None:
    world = Trial()

    found = world.judged(world.node(gpus(H200)), 60.0, 0.2)

    assert found["GPU-0"].standing is Standing.TOO_SLOW
    assert "60.00 s to compute" in found["GPU-0"].detail


def test_who_computes_again_what_was_to_be_kept_is_too_slow() -> None:
    world = Trial()
    actor = world.node(gpus(H200))

    found = world.judged(actor, 6.0, 4 * 4.6)

    assert found["GPU-0"].standing is Standing.TOO_SLOW
    assert "read its memory again" in found["GPU-0"].detail


def test_the_clock_runs_from_the_seed_and_not_from_the_question() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.asked(actor)
    world.now += world.book.rules.attest_ready_s - 1

    assert world.judged(actor, 6.0, 0.2)["GPU-0"].commit_ms == 6000


def test_to_repeat_a_message_starts_no_clock_anew() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)
    go = world.ready(actor, question)
    world.now += 50.0

    assert world.ready(actor, question) == go
    message = MatrixCommitted(challenge_id=question.challenge_id, roots=("00" * 32,))
    first = world.take(world.attesting.committed(world.when, actor.node_id, message))
    world.now += 1.0
    assert world.take(world.attesting.committed(world.when, actor.node_id, message)) == first
    assert world.attesting._open[actor.node_id].commit_s == 50.0


def test_a_wrong_row_is_wrong_for_its_device_alone() -> None:
    world = Trial()

    found = world.judged(world.node(gpus(*EIGHT[:2])), 6.0, 0.2, {"GPU-1": "row 3 is not the product"})

    assert [found[uuid].standing for uuid in ("GPU-0", "GPU-1")] == [Standing.ATTESTED, Standing.WRONG]


# --------------------------------------------------------------------------- what a node may say


def test_a_refusal_is_no_answer_with_its_reason() -> None:
    world = Trial()
    actor = world.node(gpus(H200))

    assert world.ready(actor, world.asked(actor), refusal="torch is not installed").seed == ""
    assert world.found(actor)["GPU-0"].standing is Standing.NO_ANSWER
    assert world.found(actor)["GPU-0"].detail == "torch is not installed"


def test_a_refusal_after_the_start_ends_it_too() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)
    world.ready(actor, question)

    world.ready(actor, question, refusal="the process ended")

    assert world.found(actor)["GPU-0"].detail == "the process ended"


def test_a_node_that_never_gets_ready_is_not_waited_for() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.asked(actor)
    world.now += world.book.rules.attest_ready_s

    world.take(world.attesting.sweep(world.when))

    assert "never said" in world.found(actor)["GPU-0"].detail


def refuses(world: Trial, actor: Actor) -> None:
    world.ready(actor, world.asked(actor), refusal="its owner needs the machine")


def is_away(world: Trial, actor: Actor) -> None:
    world.asked(actor)
    world.now += world.book.rules.attest_ready_s
    world.take(world.attesting.sweep(world.when))


@pytest.mark.parametrize("passing", [refuses, is_away])
def test_a_passing_reason_leaves_the_verdict_with_its_date_and_it_is_asked_for_again(
    passing: Callable[[Trial, Actor], None],
) -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)
    before = world.found(actor)
    world.now += EVERY_S

    passing(world, actor)

    assert world.found(actor) == before
    assert world.asked(actor) is None
    world.now += AGAIN_S
    assert world.asked(actor) is not None


def test_a_node_that_never_has_the_time_is_not_attested_for_ever() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)
    world.now += STALE * EVERY_S

    refuses(world, actor)

    assert world.found(actor)["GPU-0"].standing is Standing.NO_ANSWER


def test_silence_after_the_seed_ends_the_verdict() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    world.judged(actor, 6.0, 0.2)
    world.now += EVERY_S
    world.ready(actor, world.asked(actor))
    world.now += PATIENCE * 60

    world.take(world.attesting.sweep(world.when))

    assert world.found(actor)["GPU-0"].standing is Standing.NO_ANSWER


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it, challenge: it.ready(challenge, (1, 2)),
        lambda it, challenge: it.committed(challenge, ()),
        lambda it, challenge: it.reread(challenge),
        lambda it, challenge: it.opened(challenge),
        lambda it, challenge: it.ready("another", (1,)),
    ],
    ids=["two sizes for one", "before the seed", "before the roots", "before the drawing", "another challenge"],
)
def test_what_comes_out_of_turn_is_refused_and_changes_nothing(spoil) -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)

    with pytest.raises(Refused):
        spoil(Saying(world, actor), question.challenge_id)
    assert world.ready(actor, question).seed


def test_a_replayed_answer_is_for_a_challenge_that_is_over() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    old = world.asked(actor)
    world.judged(actor, 6.0, 0.2)
    world.now += EVERY_S
    world.ready(actor, world.asked(actor))

    with pytest.raises(Refused, match="over"):
        Saying(world, actor).committed(old.challenge_id, ("00" * 32,))


def test_every_challenge_has_a_seed_of_its_own() -> None:
    world = Trial()
    one, other = world.node(gpus(H200), 1), world.node(gpus(replace(H200, uuid="GPU-9")), 2)

    assert world.ready(one, world.asked(one)).seed != world.ready(other, world.asked(other)).seed


def test_fewer_rows_than_were_drawn_are_refused() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)
    world.ready(actor, question)
    say = Saying(world, actor)
    say.committed(question.challenge_id, ("00" * 32,))
    say.reread(question.challenge_id)

    with pytest.raises(Refused, match="other rows"):
        say.opened(question.challenge_id)


def test_fewer_readings_than_were_asked_are_refused() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    question = world.asked(actor)
    world.ready(actor, question)
    Saying(world, actor).committed(question.challenge_id, ("00" * 32,))
    message = MatrixReread(challenge_id=question.challenge_id, roots=(ROOTS[:1],))

    with pytest.raises(Refused, match="readings"):
        world.attesting.reread(world.when, actor.node_id, message)


def test_what_is_kept_of_it_is_the_verdict_alone() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    before = len(world.writes)

    world.judged(actor, 6.0, 0.2)

    assert [type(write) for write in world.writes[before:]] == [e.SaveNode]


def test_reading_again_is_given_far_less_time_than_computing() -> None:
    world = Trial()
    actor = world.node(gpus(H200))
    (work,) = world.ready(actor, world.asked(actor)).works

    assert reread_limit_s(CARD, work, GPU_COLUMNS, 0.6) < commit_limit_s(CARD, work, GPU_COLUMNS, 0.6) / 3
