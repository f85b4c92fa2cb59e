"""The whole path over real sockets, for both transports."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest

from agent.core import wire
from agent.core.model import ChatInput, Message, Outcome, Reason, Usage
from agent.core.proof.signed import open_signed
from agent.devnet.coordinator import Coordinator
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from agent.devnet.keys import verify
from agent.devnet.requester import Requester
from agent.devnet.streams import ChunkSeen, Restarted, StateSeen
from agent.devnet.views import TaskView
from tests import builders
from tests.devnet.conftest import Join
from tests.devnet.world import sha256
from tests.patience import until, within

ASK = ChatInput(messages=(Message(role="user", content="Name a colour."),))


async def submit(requester: Requester, **changes: object) -> str:
    return await requester.submit(builders.MODEL, ASK, **{"max_tokens": 16, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=[False, True], ids=["poll", "websocket"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_task_is_streamed_settled_receipted_and_paid(requester: Requester, join: Join, stream: bool) -> None:
    node = await join(stream=stream)
    task_id = await submit(requester)
    (offer,) = await node.pull()
    assert (await node.start(offer)).ok
    seen = []
    async with aclosing(requester.events(task_id)) as events:
        async for event in events:
            seen.append(event)
            if isinstance(event, StateSeen) and event.state is TaskState.LEASED:
                for index, text in enumerate(("Blue", ".")):
                    await node.chunk(offer, index, text)
            if isinstance(event, ChunkSeen) and event.text == ".":
                receipt = await node.deliver(node.actor.success(offer))
    assert receipt.status is wire.ReceiptStatus.ACCEPTED
    assert [it.text for it in seen if isinstance(it, ChunkSeen)] == ["Blue", "."]
    view = seen[-1]
    assert isinstance(view, TaskView)
    assert (view.state, view.output, view.output_sha256) == ("settled", "Blue.", sha256("Blue."))
    bundle = await requester.receipt(task_id)
    open_signed(wire.Role.RECEIPT, bundle.receipt, bundle.coordinator_key, verify)
    open_signed(wire.Role.RESULT, bundle.result, node.actor.keys.public, verify)
    ledger = await requester.ledger()
    assert [line.task_id for line in ledger.lines] == [task_id]
    assert ledger.total_micros == receipt.amount_micros


async def test_a_parked_pull_gets_the_task_that_comes(requester: Requester, join: Join, stream: bool) -> None:
    node = await join(stream=stream)
    pulling = asyncio.create_task(node.pull(wait_s=20.0))
    beat = await node.call(wire.Beat(), wire.BeatAck)  # a stream answers other messages while a pull is parked
    assert beat.beat_s > 0
    task_id = await submit(requester)
    assert [it.task.task_id for it in await pulling] == [task_id]


async def test_a_pull_whose_connection_died_is_granted_nothing(
    coordinator: Coordinator, requester: Requester, join: Join, stream: bool
) -> None:
    node, other = await join(stream=stream), await join(seed=2, stream=stream)
    pulling = asyncio.create_task(node.pull(wait_s=20.0))
    await until(lambda: len(coordinator.desk.book.waiting) == 1)
    pulling.cancel()
    if stream:
        await node.hang_up()
    await until(lambda: len(coordinator.desk.book.waiting) == 0)
    task_id = await submit(requester)
    assert [it.task.task_id for it in await other.pull()] == [task_id]


async def test_the_longest_waiting_node_gets_the_task(
    coordinator: Coordinator, requester: Requester, join: Join
) -> None:
    first, second = await join(seed=1, stream=True), await join(seed=2)
    pulls = []
    for count, node in enumerate((first, second), start=1):
        pulls.append(asyncio.create_task(node.pull(wait_s=20.0)))
        await until(lambda count=count: len(coordinator.desk.book.waiting) == count)
    await submit(requester)
    assert len(await pulls[0]) == 1
    assert not pulls[1].done()
    await submit(requester)
    assert len(await pulls[1]) == 1


async def test_a_cancel_is_pushed_over_a_stream(requester: Requester, join: Join) -> None:
    node = await join(stream=True)
    task_id = await submit(requester)
    (offer,) = await node.pull()
    await node.start(offer)
    assert (await requester.cancel(task_id)).state is TaskState.CANCELLED
    push = await within(node.pushes.get())
    assert push == wire.Cancel(key=offer.key, reason=Reason.CANCELLED_BY_REQUESTER)
    assert (await requester.result(task_id)).state is TaskState.CANCELLED


async def test_a_cancel_reaches_a_polling_node_with_its_next_beat(requester: Requester, join: Join) -> None:
    node = await join()
    task_id = await submit(requester)
    (offer,) = await node.pull()
    await requester.cancel(task_id)
    assert (await node.call(wire.Beat(held=(offer.key,)), wire.BeatAck)).cancelled == (offer.key,)


async def test_a_directive_is_pushed_or_waits_for_the_beat(coordinator: Coordinator, join: Join) -> None:
    streaming, polling = await join(seed=1, stream=True), await join(seed=2)
    coordinator.direct(streaming.actor.node_id, "drain")
    coordinator.direct(polling.actor.node_id, "pause", "for lunch")
    drain = wire.Directed(directive=wire.Directive(kind="drain"))
    assert await within(streaming.pushes.get()) == drain
    ack = await polling.call(wire.Beat(), wire.BeatAck)
    assert ack.directives == (wire.Directive(kind="pause", detail="for lunch"),)


async def test_another_attempt_tells_followers_to_start_over(requester: Requester, join: Join) -> None:
    node, other = await join(seed=1), await join(seed=2)
    task_id = await submit(requester)
    (offer,) = await node.pull()
    await node.chunk(offer, 0, "lost")
    await node.deliver(node.actor.ending(offer, Outcome.HANDED_BACK, Reason.DRAIN_LIMIT))
    (again,) = await other.pull()
    await other.chunk(again, 0, "kept")
    await node.chunk(offer, 1, "late")
    await other.chunk(again, 0, "twice")
    await other.deliver(other.actor.success(again))
    seen = [event async for event in requester.events(task_id)]
    assert isinstance(seen[-1], TaskView)
    assert [episode.outcome for episode in seen[-1].story] == [Outcome.HANDED_BACK, Outcome.SUCCEEDED]


async def test_a_follower_who_comes_late_sees_every_attempt_in_order(requester: Requester, join: Join) -> None:
    node, other = await join(seed=1), await join(seed=2)
    task_id = await submit(requester)
    (offer,) = await node.pull()
    await node.chunk(offer, 0, "lost")
    await node.deliver(node.actor.ending(offer, Outcome.HANDED_BACK, Reason.DRAIN_LIMIT))
    (again,) = await other.pull()
    for index, text in ((0, "kept"), (0, "twice")):
        await other.chunk(again, index, text)
    await node.chunk(offer, 1, "late")
    texts: list[str] = []
    async with aclosing(requester.events(task_id)) as events:
        async for event in events:
            if isinstance(event, Restarted):
                texts.append("|")
            if isinstance(event, ChunkSeen):
                texts.append(event.text)
            if texts[-1:] == ["kept"]:
                await other.deliver(other.actor.success(again))
    assert texts == ["lost", "|", "kept"]


async def test_a_large_output_goes_up_as_a_blob_and_comes_back_whole(requester: Requester, join: Join) -> None:
    node = await join()
    task_id = await submit(requester, max_tokens=600)
    (offer,) = await node.pull()
    text = "long " * 100_000
    usage = Usage(prompt_tokens=10, completion_tokens=600)
    commitment = node.actor.commitment(offer, text, usage)
    result = node.actor.success(offer, text, blob=True, usage=usage, commitment=commitment)
    (early,) = (await node.call(wire.Result(deliveries=(result,)), wire.Receipt)).answers
    assert early.refusal
    assert early.refusal.code is wire.RefusalCode.NOT_FOUND
    assert (await node.put_blob(sha256(text), text.encode())).status == 201
    assert (await node.put_blob(sha256(text), text.encode())).status == 201
    assert (await node.deliver(result)).status is wire.ReceiptStatus.ACCEPTED
    assert (await requester.receipt(task_id)).output == text


async def test_a_retried_submit_with_a_request_key_is_one_task(requester: Requester) -> None:
    first, second = await asyncio.gather(*(submit(requester, request_key="order 7") for _ in range(2)))
    assert first == second


async def test_no_reply_tells_of_anything_that_is_not_on_the_disk_yet(
    coordinator: Coordinator, requester: Requester, join: Join
) -> None:
    node = await join(stream=True)
    await submit(requester)
    (offer,) = await node.pull()
    slow = threading.Event()
    writing = asyncio.create_task(coordinator.desk.store.read(lambda _: slow.wait(20)))
    results = [asyncio.create_task(node.deliver(node.actor.success(offer))) for _ in range(2)]
    again = [asyncio.create_task(submit(requester, request_key="order 7")) for _ in range(2)]
    await until(lambda: len(coordinator.desk.book.tasks) == 2)
    await until(lambda: coordinator.desk.book.tasks[offer.task.task_id].progress.state is TaskState.SETTLED)
    for _ in range(5):  # any reply that was sent by now would have arrived before these
        await node.post("/healthz", method="GET")
    assert not any(task.done() for task in (*results, *again))
    slow.set()
    await writing
    assert [(await result).status for result in results] == ["accepted", "duplicate"]
    assert len({await task_id for task_id in again}) == 1


async def test_a_requester_sees_nodes_and_what_they_offer(requester: Requester, join: Join) -> None:
    node = await join()
    (view,) = (await requester.nodes()).nodes
    assert view.node_id == node.actor.node_id
    assert view.fingerprint is not None
    assert [pool.model_digest for pool in view.fingerprint.pools] == [builders.MODEL]


async def test_nobody_asks_without_the_requester_token(coordinator: Coordinator) -> None:
    async with Requester(coordinator.url, "wrong") as stranger:
        with pytest.raises(Refused) as refused:
            await stranger.ledger()
    assert refused.value.code is wire.RefusalCode.BAD_TOKEN


async def test_a_receipt_before_there_is_a_result_is_refused(requester: Requester) -> None:
    task_id = await submit(requester)
    with pytest.raises(Refused, match="has no result"):
        await requester.receipt(task_id)


async def test_a_goodbye_that_comes_after_the_node_s_return_ends_nothing(requester: Requester, join: Join) -> None:
    node = await join()
    before = node.session
    await submit(requester)
    await node.hello()
    (offer,) = await node.pull()
    late = await node.post("/v1/bye", wire.UpFrame(seq=900, msg=wire.Bye(reason="drained")), token=before)
    assert isinstance(late.msg, wire.Ack)
    assert (await node.start(offer)).ok


async def test_a_hello_that_comes_after_a_later_one_ends_nothing(requester: Requester, join: Join) -> None:
    node = await join()
    late = node.actor.hello(await node.nonce(), node.key)
    await submit(requester)
    await node.hello()
    (offer,) = await node.pull()
    answer = await node.post("/v1/hello", wire.UpFrame(seq=0, msg=late))
    assert isinstance(answer.msg, wire.Refusal)
    assert answer.msg.code is wire.RefusalCode.REPLAYED
    assert (await node.start(offer)).ok
