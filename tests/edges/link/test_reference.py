"""The links against the reference coordinator: both sides of the protocol, as they are shipped."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.core.fingerprint import Pool, ProgramTerms
from agent.core.model import Bundle, CompletionInput, ExecInput, ExecLimits, LeaseKey, Outcome, Reason, TaskKind
from agent.core.program import RUNTIME, sign_bundle
from agent.core.proof.signed import open_signed, seal
from agent.devnet.coordinator import Coordinator
from agent.devnet.requester import Requester
from agent.edges.clock import SystemClock
from agent.edges.enrolment import enrol
from agent.edges.link.baton import link_to
from agent.edges.signing import KeyPair, verify
from agent.ports import Link
from tests.fakes.clock import ManualClock
from tests.fakes.mind import FINGERPRINT, TestNode
from tests.patience import PATIENCE_S, within

MODEL = "sha256:" + "5e" * 32
POOL = Pool(
    name="cpu",
    device="cpu",
    engine="llama-server",
    model="tiny",
    model_digest=MODEL,
    kinds=(TaskKind.COMPLETION,),
    slots=2,
    context_tokens=512,
    ready=True,
)


PUBLISHER = KeyPair.generate()
PROGRAMS = Pool(
    name="exec",
    device="cpu",
    engine="bubblewrap",
    model="exec/v1",
    model_digest=RUNTIME,
    kinds=(TaskKind.EXEC,),
    slots=2,
    context_tokens=1,
    ready=True,
    programs=ProgramTerms(publishers=(PUBLISHER.public_key,), most=ExecLimits()),
)


def published(bundle: bytes) -> Bundle:
    digest = hashlib.sha256(bundle).hexdigest()
    return sign_bundle(digest, len(bundle), PUBLISHER.public_key, PUBLISHER.sign)


class Scene:
    """A running coordinator, an enrolled node and its link."""

    def __init__(self, coordinator: Coordinator, clock: ManualClock, node: TestNode, transport: str) -> None:
        self.coordinator = coordinator
        self.clock = clock
        self.node = node
        self.transport = transport
        self.link: Link = link_to(coordinator.url, node, SystemClock(), transport=transport)

    async def submit(self) -> str:
        async with Requester(self.coordinator.url, self.coordinator.requester_token) as requester:
            return await requester.submit(MODEL, CompletionInput(prompt="Once"), max_tokens=8)

    async def cancel(self, task_id: str) -> None:
        async with Requester(self.coordinator.url, self.coordinator.requester_token) as requester:
            await requester.cancel(task_id)

    async def pull(self, wait_s: float = 0.0) -> wire.OfferBody | None:
        credit = wire.Credit(pool=POOL.name, model_digest=MODEL, count=1)
        reply = await self.link.call(wire.Pull(credits=(credit,), wait_s=wait_s))
        assert isinstance(reply, wire.Offers)
        if not reply.offers:
            return None
        payload = open_signed(wire.Role.OFFER, reply.offers[0], self.coordinator.public_key, verify)
        return msgspec.json.decode(payload, type=wire.OfferBody)

    async def started(self) -> wire.OfferBody:
        await self.submit()
        offer = await self.pull()
        assert offer is not None
        reply = await self.link.call(wire.Start(keys=(offer.key,)))
        assert reply == wire.StartAck(leases=(wire.Confirmed(key=offer.key, ok=True, lease_ms=40_000),))
        return offer

    async def leased_program(self, bundle: bytes) -> str:
        """Have the node hold a program of this bundle; returns the bundle's digest."""
        async with Requester(self.coordinator.url, self.coordinator.requester_token) as requester:
            await requester.upload(bundle)
            await requester.run(ExecInput(bundle=published(bundle), argv=("/bundle/run",)))
        credit = wire.Credit(pool=PROGRAMS.name, model_digest=RUNTIME, count=1)
        assert (await self.link.call(wire.Pull(credits=(credit,), wait_s=0.0))).offers
        return hashlib.sha256(bundle).hexdigest()

    def failure(self, offer: wire.OfferBody) -> wire.Result:
        body = wire.ResultBody(
            node_id=self.node.node_id,
            task_id=offer.task.task_id,
            attempt=offer.attempt,
            fence=offer.fence,
            idem_key=offer.idem_key,
            outcome=Outcome.FAILED,
            reason=Reason.ENGINE_CRASHED,
        )
        keys = self.node.keys
        signed = seal(wire.Role.RESULT, wire.encode(body), keys.public_key, keys.sign)
        return wire.Result(deliveries=(wire.Delivery(signed=signed),))

    def receipt(self, reply: wire.DownMessage) -> wire.ReceiptBody:
        assert isinstance(reply, wire.Receipt)
        (answer,) = reply.answers
        assert answer.signed is not None
        payload = open_signed(wire.Role.RECEIPT, answer.signed, self.coordinator.public_key, verify)
        return msgspec.json.decode(payload, type=wire.ReceiptBody)


@pytest.fixture(params=["websocket", "poll", "auto"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    clock = ManualClock()
    async with Coordinator(tmp_path / "coordinator", clock=clock) as coordinator:
        node = TestNode(coordinator_key=coordinator.public_key)
        token = coordinator.enrol_token()
        enrolment = await enrol(coordinator.url, token, keys=node.keys, state_dir=tmp_path)
        node.node_id = enrolment.node_id
        node.fingerprint = msgspec.structs.replace(FINGERPRINT, pools=(POOL, PROGRAMS))
        made = Scene(coordinator, clock, node, request.param)
        yield made
        await made.link.close()


async def test_a_node_beats_and_says_goodbye(scene: Scene) -> None:
    assert isinstance(await scene.link.call(wire.Beat()), wire.BeatAck)
    assert isinstance(await scene.link.call(wire.Bye()), wire.Ack)
    assert len(scene.node.welcomes) == 1


async def test_the_clock_offset_is_that_of_the_coordinator(scene: Scene) -> None:
    await scene.link.call(wire.Beat())
    lead_s = scene.clock.wall() - SystemClock().wall()
    assert float(scene.link.describe()["clock_offset_s"]) == pytest.approx(lead_s, abs=30)


async def test_a_parked_pull_gets_the_task_that_comes_later(scene: Scene) -> None:
    pull = asyncio.create_task(scene.pull(wait_s=20))
    await scene.link.call(wire.Beat())
    task_id = await scene.submit()
    offer = await within(pull)
    assert offer is not None
    assert (offer.task.task_id, offer.node_id) == (task_id, scene.node.node_id)


async def test_a_result_is_receipted_once_and_the_second_time_as_a_duplicate(scene: Scene) -> None:
    offer = await scene.started()
    await scene.link.post(wire.Chunk(key=offer.key, index=0, text=" upon", tokens=1))
    result = scene.failure(offer)
    first = scene.receipt(await scene.link.call(result))
    again = scene.receipt(await scene.link.call(result))
    assert (first.status, again.status) == (wire.ReceiptStatus.ACCEPTED, wire.ReceiptStatus.DUPLICATE)


async def test_a_declined_offer_is_acknowledged(scene: Scene) -> None:
    await scene.submit()
    offer = await scene.pull()
    assert offer is not None
    assert await scene.link.call(wire.Decline(key=offer.key, reason=Reason.DRAINING)) == wire.Ack()


async def test_a_lease_that_is_not_ours_is_neither_started_nor_renewed(scene: Scene) -> None:
    key = LeaseKey(task_id="t-nobody", attempt=1, fence=1)
    started = await scene.link.call(wire.Start(keys=(key,)))
    assert isinstance(started, wire.StartAck)
    assert [lease.ok for lease in started.leases] == [False]
    beat = await scene.link.call(wire.Beat(held=(key,)))
    assert isinstance(beat, wire.BeatAck)
    assert beat.lost == (key,)


async def test_a_cancelled_task_is_heard_of_by_push_or_by_the_next_beat(scene: Scene) -> None:
    offer = await scene.started()
    await scene.cancel(offer.task.task_id)
    if scene.transport == "poll":
        beat = await scene.link.call(wire.Beat(held=(offer.key,)))
        assert isinstance(beat, wire.BeatAck)
        assert beat.cancelled == (offer.key,)
    else:
        push = await within(anext(scene.link.pushes()))
        assert push == wire.Cancel(key=offer.key, reason=Reason.CANCELLED_BY_REQUESTER)


async def test_a_directive_is_heard_of_by_push_or_by_the_next_beat(scene: Scene) -> None:
    await scene.link.call(wire.Beat())
    scene.coordinator.direct(scene.node.node_id, "drain")
    if scene.transport == "poll":
        beat = await scene.link.call(wire.Beat())
        assert isinstance(beat, wire.BeatAck)
        assert [directive.kind for directive in beat.directives] == ["drain"]
    else:
        push = await within(anext(scene.link.pushes()))
        assert isinstance(push, wire.Directed)
        assert push.directive.kind == "drain"


async def test_an_expired_session_is_opened_again_without_a_word(scene: Scene) -> None:
    await scene.link.call(wire.Beat())
    scene.clock.advance(1801)
    assert isinstance(await scene.link.call(wire.Beat()), wire.BeatAck)
    assert len(scene.node.welcomes) == 2


async def test_parallel_messages_are_all_answered(scene: Scene) -> None:
    replies = await asyncio.gather(*(scene.link.call(wire.Beat()) for _ in range(100)))
    assert all(isinstance(reply, wire.BeatAck) for reply in replies)
    assert len(scene.node.welcomes) == 1


async def test_the_largest_message_goes_through(scene: Scene) -> None:
    offer = await scene.started()
    (delivery,) = scene.failure(offer).deliveries
    with_output = lambda text: wire.Result(deliveries=(msgspec.structs.replace(delivery, output=text),))  # noqa: E731
    empty = len(wire.encode(wire.UpFrame(seq=9, msg=with_output(""))))
    full = with_output("x" * (wire.MAX_MESSAGE_BYTES - empty))
    assert isinstance(await outcome(scene.link, full), wire.Receipt)
    assert len(scene.node.welcomes) == 1  # judged as a message; the stream did not break over it


async def test_a_blob_of_a_task_that_is_held_comes_whole_and_no_other_does(scene: Scene) -> None:
    bundle, came = bytes(range(256)) * 4000, bytearray()
    held = await scene.leased_program(bundle)
    await scene.link.get_blob(held, len(bundle), came.extend)
    assert came == bundle
    with pytest.raises(LinkError) as caught:
        await scene.link.get_blob("ab" * 32, 10, came.extend)
    assert (caught.value.fault, caught.value.code) == (LinkFault.REFUSED, wire.RefusalCode.NOT_FOUND)
    with pytest.raises(LinkError) as caught:
        await scene.link.get_blob(held, len(bundle) - 1, came.extend)
    assert caught.value.fault is LinkFault.BROKEN


async def test_whoever_takes_a_blob_may_refuse_it_on_the_way(scene: Scene) -> None:
    bundle = bytes(1 << 20)
    held = await scene.leased_program(bundle)

    class FullError(Exception):
        pass

    def refuse(_piece: bytes) -> None:
        raise FullError

    with pytest.raises(FullError):
        await scene.link.get_blob(held, len(bundle), refuse)
    assert isinstance(await scene.link.call(wire.Beat()), wire.BeatAck)


async def test_a_blob_is_kept_under_its_own_digest_alone(scene: Scene) -> None:
    body = b"long " * 100_000
    await scene.link.put_blob(hashlib.sha256(body).hexdigest(), body)
    with pytest.raises(LinkError) as caught:
        await scene.link.put_blob(hashlib.sha256(b"other").hexdigest(), body)
    assert caught.value.fault is LinkFault.REFUSED


async def test_an_unknown_node_is_refused_by_code(scene: Scene) -> None:
    stranger = TestNode("n-stranger", scene.coordinator.public_key)
    link = link_to(scene.coordinator.url, stranger, SystemClock(), transport=scene.transport)
    code = await outcome(link, wire.Beat())
    await link.close()
    assert code in (wire.RefusalCode.UNKNOWN_NODE, wire.RefusalCode.BAD_SIGNATURE)


async def test_a_relay_that_signed_for_another_coordinator_is_refused(scene: Scene) -> None:
    scene.node.coordinator_key = "00" * 32
    assert await outcome(scene.link, wire.Beat()) is wire.RefusalCode.BAD_SIGNATURE


async def test_a_coordinator_that_restarts_is_greeted_again(scene: Scene, tmp_path: Path) -> None:
    await scene.link.call(wire.Beat())
    port = int(scene.coordinator.url.rsplit(":", 1)[1])
    await scene.coordinator.__aexit__(None, None, None)
    with suppress(LinkError):
        await scene.link.call(wire.Beat())
    async with Coordinator(tmp_path / "coordinator", port=port):
        await until_answered(scene.link.call)
    assert len(scene.node.welcomes) == 2


async def outcome(link: Link, message: wire.UpMessage) -> Any:
    try:
        return await link.call(message)
    except LinkError as error:
        return error.code or error.fault


async def until_answered(call: Callable[[wire.UpMessage], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(LinkError):
                await call(wire.Beat())
                return
