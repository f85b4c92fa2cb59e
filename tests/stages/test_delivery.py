"""How results reach the coordinator, are receipted once, and outlive whatever comes between."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.core.model import Reason
from agent.edges.signing import KeyPair
from agent.ports import OutboxRow
from agent.stages.uploads import AT_ONCE
from tests import builders
from tests.stages.paper import unreachable
from tests.stages.rig import Rig


async def test_a_result_outlives_a_coordinator_that_is_away() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.coordinator.down = True
        rig.engine.go.set()
        await rig.coordinator.saw(wire.Result)
        await rig.until(lambda: rig.outbox.rows)
        rig.coordinator.down = False
        await rig.pass_time(5.0)
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.outbox.rows == {}


async def test_a_transcript_is_kept_for_as_long_after_the_last_moment_that_its_result_may_come() -> None:
    async with Rig() as rig:
        rig.coordinator.offer(builders.offer(deadline_ms=600_000))
        await rig.until(lambda: rig.outbox.ledger)
        (until,) = rig.transcripts.until.values()
        assert until == rig.clock.wall() + 600.0 + 3600.0


async def test_a_receipt_that_the_coordinator_did_not_sign_settles_nothing() -> None:
    async with Rig() as rig:
        stranger = KeyPair.generate()
        wrong = [
            lambda m: rig.coordinator.receipts(m, stranger),
            lambda m: rig.coordinator.receipts(m, idem_key="another"),
        ]
        for number, answer in enumerate(wrong, start=1):
            rig.coordinator.answers[wire.Result] = answer
            rig.coordinator.offer(builders.offer(f"t{number}"))
            await rig.until(lambda n=number: len(rig.outbox.rows) == n)
            await rig.coordinator.saw(wire.Result, number)
        assert rig.outbox.ledger == {}
        del rig.coordinator.answers[wire.Result]
        await rig.pass_time(10.0)
        await rig.until(lambda: len(rig.outbox.ledger) == 2)


async def test_a_receipt_for_other_bytes_than_were_sent_settles_nothing() -> None:
    async with Rig() as rig:
        lie = lambda m: rig.coordinator.receipts(m, result_sha256="00" * 32)  # noqa: E731
        rig.coordinator.answers[wire.Result] = lie
        rig.coordinator.offer(builders.offer())
        await rig.coordinator.saw(wire.Result)
        assert rig.outbox.ledger == {}
        del rig.coordinator.answers[wire.Result]
        await rig.pass_time(60.0)
        await rig.until(lambda: rig.outbox.ledger)


async def test_a_receipt_that_finds_no_room_is_asked_for_again_and_work_goes_on_after_it() -> None:
    async with Rig() as rig:
        rig.outbox.no_room_for_receipts = True
        rig.coordinator.offer(builders.offer())
        await rig.until(rig.node.gates)
        assert rig.node.credit("main") is None
        rig.outbox.no_room_for_receipts = False
        await rig.pass_time(60.0)
        await rig.until(lambda: rig.outbox.ledger)
        await rig.until(lambda: rig.node.credit("main"))


async def test_a_large_output_goes_up_as_a_blob_first() -> None:
    async with Rig() as rig:
        rig.engine.words = ["x" * 1000] * 200
        rig.coordinator.offer(builders.offer())
        result = await rig.coordinator.saw(wire.Result)
        (delivery,) = result.deliveries
        assert delivery.output is None
        assert hashlib.sha256(rig.coordinator.blobs[delivery.blob]).hexdigest() == rig.opened(result).output_sha256


async def test_results_of_an_earlier_life_are_told_in_the_hello_and_delivered() -> None:
    first = Rig()
    async with first:
        first.coordinator.answers[wire.Result] = unreachable
        first.coordinator.offer(builders.offer())
        await first.until(lambda: first.outbox.rows)
    second = Rig()
    second.outbox = first.outbox
    second.deliver._outbox = first.outbox
    second.identity.coordinator_key = second.coordinator.keys.public_key
    async with second:
        assert second.herald.hello("00").unsent == (builders.offer().key,)
        await second.until(lambda: second.outbox.ledger)
    assert len(second.coordinator.results()) == 1


async def test_a_result_that_is_refused_for_good_no_longer_holds_its_lease() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = _refused_for_good
        rig.coordinator.offer(builders.offer())
        await rig.coordinator.saw(wire.Result)
        await rig.until(lambda: not rig.node.held())
        assert list(rig.outbox.rows) == [builders.offer().idem_key]
        await rig.pass_time(300.0, step_s=5.0)
        assert len(rig.coordinator.sent(wire.Result)) == 1


def _refused_for_good(_message: object) -> wire.DownMessage:
    raise LinkError(LinkFault.REFUSED, "64 MiB at most", code=wire.RefusalCode.TOO_LARGE)


async def test_nothing_new_is_taken_while_a_thousand_results_wait_for_receipts() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = unreachable
        for number in range(999):
            key, idem_key, signed = builders.offer(f"t{number}").key, str(number), builders.signed()
            rig.outbox.rows[idem_key] = OutboxRow(key=key, idem_key=idem_key, offer=signed, result=signed, output=None)
            rig.deliver.unsent[idem_key] = key
        rig.coordinator.offer(builders.offer())
        await rig.until(rig.node.gates)
        assert [gate.reason for gate in rig.node.gates()] == [Reason.OUTBOX_BACKLOG]
        rig.outbox.rows.clear()
        await rig.pass_time(70.0, step_s=1.0)
        await rig.until(lambda: not rig.node.gates())


async def test_a_store_that_cannot_be_read_for_a_moment_ends_nothing() -> None:
    async with Rig() as rig:
        await rig.coordinator.saw(wire.Pull)
        rig.outbox.unreadable = True
        rig.coordinator.offer(builders.offer("unchecked"))
        await rig.pass_time(6.0)
        await rig.coordinator.saw(wire.Pull, 2)
        rig.outbox.unreadable = False
        rig.coordinator.offer(builders.offer("checked"))
        await rig.pass_time(6.0)
        await rig.until(lambda: list(rig.outbox.ledger) == [builders.offer("checked").idem_key])


def _earlier(task_id: str) -> OutboxRow:
    """The result of another offer of the same attempt."""
    key, signed = builders.offer(task_id).key, builders.signed()
    return OutboxRow(key=key, idem_key=f"earlier {task_id}", offer=signed, result=signed)


async def test_another_offer_of_a_waiting_attempt_costs_no_gpu_work() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = unreachable
        await rig.outbox.put(_earlier("task-1"))
        rig.coordinator.offer(builders.offer())
        await rig.coordinator.saw(wire.Decline)
        assert rig.engine.started == 0


async def test_results_that_are_refused_for_good_hold_up_no_newer_one() -> None:
    rig = Rig()
    rig.coordinator.answers[wire.Result] = _refused_for_good
    for number in range(600):
        await rig.outbox.put(_earlier(f"t{number}"))
    async with rig:
        await rig.coordinator.saw(wire.Result, 600 + 19)  # 19 messages of up to 32, then each by itself
        del rig.coordinator.answers[wire.Result]
        rig.coordinator.offer(builders.offer("newer"))
        await rig.until(lambda: list(rig.outbox.ledger) == [builders.offer("newer").idem_key])


async def test_a_result_that_the_outbox_lost_with_its_file_gives_its_lease_up() -> None:
    """A damaged database was put aside while the agent ran: renewing the lease for ever would lose the task."""
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = unreachable
        rig.coordinator.offer(builders.offer())
        await rig.coordinator.saw(wire.Result)
        rig.outbox.rows.clear()
        await rig.pass_time(40)
        await rig.until(lambda: not rig.node.held())
        assert rig.deliver.unsent == {}


async def test_what_ends_together_is_signed_once_started_in_one_message_and_delivered_in_one() -> None:
    async with Rig(slots=8) as rig:
        rig.engine.go.clear()
        names = [f"t{number}" for number in range(8)]
        rig.coordinator.offer_together(*map(builders.offer, names))
        await rig.until(lambda: rig.engine.started == 8)
        assert [len(start.keys) for start in rig.coordinator.sent(wire.Start)] == [8]
        rig.engine.go.set()
        await rig.until(lambda: len(rig.outbox.ledger) == 8)
        sent = [it for message in rig.coordinator.sent(wire.Result) for it in message.deliveries]
        assert sorted(body.task_id for body in rig.coordinator.results()) == names
        assert len({it.signed.signature for it in sent}) < 8


async def test_a_delivery_that_is_refused_leaves_those_beside_it_settled() -> None:
    def refuses_one(message: wire.Result) -> wire.Receipt:
        answers = rig.coordinator.receipts(message).answers
        refusal = wire.Answer(refusal=wire.Refusal(code=wire.RefusalCode.TOO_LARGE, message="too large"))
        bad = ["bad" in it.signed.payload for it in message.deliveries]
        return wire.Receipt(answers=tuple(refusal if it else fine for it, fine in zip(bad, answers, strict=True)))

    async with Rig(slots=3) as rig:
        rig.coordinator.answers[wire.Result] = refuses_one
        rig.coordinator.offer_together(*map(builders.offer, ["good-1", "bad", "good-2"]))
        await rig.until(lambda: len(rig.outbox.ledger) == 2)
        await rig.until(lambda: not rig.node.held())
        assert list(rig.outbox.rows) == [builders.offer("bad").idem_key]


async def test_answers_that_are_not_one_for_each_delivery_settle_nothing() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = lambda _: wire.Receipt(answers=())
        rig.coordinator.offer(builders.offer())
        await rig.coordinator.saw(wire.Result)
        await rig.until(lambda: rig.deliver.unsent)
        assert not rig.outbox.ledger
        del rig.coordinator.answers[wire.Result]
        await rig.pass_time(3.0)
        await rig.until(lambda: rig.outbox.ledger)


async def test_a_message_that_one_delivery_spoils_is_sent_again_in_parts() -> None:
    def chokes(message: wire.Result) -> wire.Receipt:
        if any("bad" in it.signed.payload for it in message.deliveries):
            raise LinkError(LinkFault.REFUSED, "what is this", code=wire.RefusalCode.BAD_MESSAGE)
        return rig.coordinator.receipts(message)

    async with Rig(slots=3) as rig:
        rig.coordinator.answers[wire.Result] = chokes
        rig.coordinator.offer_together(*map(builders.offer, ["good-1", "bad", "good-2"]))
        await rig.until(lambda: len(rig.outbox.ledger) == 2)
        assert list(rig.outbox.rows) == [builders.offer("bad").idem_key]


async def test_small_results_pass_by_large_ones_that_wait_for_room_on_the_line() -> None:
    async with Rig() as rig:
        rig.coordinator.line_is_free = asyncio.Event()
        for number in range(40):
            await rig.outbox.put(msgspec.structs.replace(_earlier(f"t{number}"), output="x" * 200_000))
        rig.deliver.unsent.update(await rig.outbox.unsent())
        rig.coordinator.offer(builders.offer("small"))
        await rig.until(lambda: list(rig.outbox.ledger) == [builders.offer("small").idem_key])
        assert rig.coordinator.uploading == AT_ONCE


async def test_an_attempt_given_out_twice_ends_once_and_work_goes_on() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.coordinator.answers[wire.Result] = unreachable
        await rig.outbox.put(_earlier("task-1"))
        rig.engine.go.set()
        await rig.until(lambda: not rig.node.attempts or not rig.node.held())
        assert list(rig.outbox.rows) == ["earlier task-1"]
        assert rig.node.gates() == []
        assert rig.node.credit("main")
