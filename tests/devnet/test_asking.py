"""What a requester may ask for."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from agent.core.model import ChatInput, CompletionInput, EmbeddingInput, Message
from agent.core.wire import RefusalCode
from agent.devnet.core import asking
from agent.devnet.core.asking import NO_SEED, SamplingAsked, seed_of
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from tests.devnet.world import World


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": "llama"}, "model_digest"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"input": ChatInput(messages=())}, "messages"),
        ({"input": ChatInput(messages=(Message(role="root", content="x"),))}, "role"),
        ({"input": CompletionInput(prompt="")}, "prompt"),
        ({"input": EmbeddingInput(texts=("", "a"))}, "texts"),
        ({"deadline_s": -1.0}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"request_key": "k" * 201}, "request_key"),
        ({"sampling": SamplingAsked(seed=NO_SEED)}, "seed"),
        ({"sampling": SamplingAsked(seed=-1)}, "seed"),
        ({"sampling": SamplingAsked(temperature_micros=-1)}, "temperature_micros"),
        ({"sampling": SamplingAsked(top_p_micros=0)}, "top_p_micros"),
        ({"sampling": SamplingAsked(stop=("",))}, "stop"),
    ],
)
def test_a_task_that_no_engine_could_do_is_refused_with_the_field(changes: Any, word: str) -> None:
    world = World()
    with pytest.raises(Refused, match=word) as refused:
        world.submit(**changes)
    assert refused.value.code is RefusalCode.BAD_MESSAGE
    assert world.writes == []


def test_all_faults_of_a_task_are_told_at_once() -> None:
    with pytest.raises(Refused, match=r"max_tokens.*model_digest"):
        World().submit(model="x", max_tokens=0)


def test_a_task_that_fits_into_no_message_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        World().submit(text='"' * 300_000)
    assert refused.value.code is RefusalCode.TOO_LARGE


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    world = World(max_queued=1)
    world.submit()
    with pytest.raises(Refused) as refused:
        world.submit()
    assert refused.value.code is RefusalCode.BUSY
    assert refused.value.retry_after_s


def test_the_seed_follows_from_task_and_nonce_and_is_never_the_one_that_means_random() -> None:
    digest = hashlib.sha256(b"t-1" + bytes(32)).digest()
    assert seed_of("t-1", "00" * 32) == int.from_bytes(digest[:4], "big")
    world = World()
    node = world.enrolled()
    world.submit()
    (offer,) = world.pull(node)
    assert offer.task.sampling.seed == seed_of(offer.task.task_id, offer.nonce)


def test_a_seed_of_the_requester_is_kept() -> None:
    world = World()
    node = world.enrolled()
    world.submit(sampling=SamplingAsked(seed=42))
    assert world.pull(node)[0].task.sampling.seed == 42


def test_the_same_request_key_is_the_same_task_also_after_a_restart() -> None:
    world = World()
    task_id = world.submit(request_key="order 7")
    assert world.submit(request_key="order 7") == task_id
    world = world.restarted()
    assert world.submit(request_key="order 7") == task_id
    assert len(world.book.tasks) == 1


def test_cancelling_a_queued_task_takes_it_out_of_the_queue() -> None:
    world = World()
    node = world.enrolled()
    task_id = world.submit()
    assert world.cancel(task_id) is TaskState.CANCELLED
    assert world.pull(node) == []


def test_cancelling_what_has_ended_changes_nothing() -> None:
    world = World()
    node = world.enrolled()
    task_id = world.submit()
    (offer,) = world.pull(node)
    world.deliver(node, node.success(offer))
    assert world.cancel(task_id) is TaskState.SETTLED


def test_cancelling_a_task_that_is_not_here_is_refused() -> None:
    world = World()
    with pytest.raises(Refused) as refused:
        asking.cancel(world.book, world.when, "t-none")
    assert refused.value.code is RefusalCode.NOT_FOUND


def test_a_requeued_task_takes_its_old_place() -> None:
    world = World()
    node, other = world.enrolled(1), world.enrolled(2)
    first, second = world.submit(), world.submit()
    world.decline(node, world.pull(node)[0].key)
    assert [it.task.task_id for it in world.pull(other, 2)] == [first, second]
