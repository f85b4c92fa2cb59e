"""The path of a task through all stages, and every way in which it is left."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import pytest

from agent.core import events as ev
from agent.core import wire
from agent.core.attempt import Event
from agent.core.errors import LinkError, LinkFault, StorageError
from agent.core.model import LeaseKey, Outcome, Reason, Signed, State
from agent.core.node import NodeState
from agent.core.proof.commitment import read_commitment
from agent.core.proof.header import check_against_offer
from agent.core.proof.signed import seal
from agent.edges.signing import KeyPair
from agent.ports import OutboxRow, Room
from agent.stages.uploads import AT_ONCE
from tests import builders
from tests.stages.rig import Rig, confirmed, crash


async def test_a_task_is_computed_committed_to_and_receipted() -> None:
    async with Rig() as rig:
        offer = builders.offer()
        rig.coordinator.offer(offer)
        result = await rig.coordinator.saw(wire.Result)
        await rig.until(lambda: rig.outbox.ledger)
        body = rig.opened(result)
        assert (body.outcome, body.reason) == (Outcome.SUCCEEDED, Reason.COMPLETED)
        assert msgspec.json.decode(result.deliveries[0].output)["text"] == "red, green"
        assert hashlib.sha256(result.deliveries[0].output.encode()).hexdigest() == body.output_sha256
        assert body.commitment is not None
        header = read_commitment(body.commitment, rig.identity.public_key)
        check_against_offer(header, offer)
        assert header.output_sha256 == body.output_sha256
        assert list(rig.transcripts.kept) == [offer.key]
        assert rig.outbox.rows == {}
        assert rig.deliver.earned_micros == 250
        assert rig.node.attempts == {}


async def test_nothing_runs_before_the_start_is_confirmed() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Start] = lambda m: confirmed(m, ok=False, detail="leased again")
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: rig.node.closed)
        assert rig.engine.started == 0
        assert (rig.node.closed[0].reason, rig.node.closed[0].detail) == (Reason.START_REFUSED, "leased again")


async def test_streamed_chunks_carry_the_whole_text_in_order() -> None:
    async with Rig() as rig:
        rig.engine.words = [f"w{n} " for n in range(70)]
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: rig.outbox.ledger)
        await rig.until(lambda: sum(chunk.tokens for chunk in rig.coordinator.chunks) == 70)
        chunks = rig.coordinator.chunks
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert "".join(chunk.text for chunk in chunks) == "".join(rig.engine.words)
        assert any(chunk.leaf for chunk in chunks)


async def test_offers_that_the_pinned_coordinator_did_not_sign_are_not_acted_on() -> None:
    async with Rig() as rig:
        stranger, good = KeyPair.generate(), builders.offer("good")
        ours = rig.coordinator.keys
        forged = seal(wire.Role.OFFER, wire.encode(builders.offer("forged")), stranger.public_key, stranger.sign)
        claimed = msgspec.structs.replace(forged, key=ours.public_key)
        other_purpose = seal(wire.Role.RECEIPT, wire.encode(builders.offer("purpose")), ours.public_key, ours.sign)
        honest = seal(wire.Role.OFFER, wire.encode(good), ours.public_key, ours.sign)
        tampered = msgspec.structs.replace(
            honest, payload=honest.payload.replace('"lease_ms":40000', '"lease_ms":90000')
        )
        unknown = wire.encode(builders.offer("unknown"))[:-1] + b',"run_as":"root"}'
        unknown_field = seal(wire.Role.OFFER, unknown, ours.public_key, ours.sign)
        for bad in (forged, claimed, other_purpose, tampered, unknown_field):
            rig.coordinator.offer_signed(bad)
        rig.coordinator.offer(good)
        await rig.pass_time(60.0)
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.engine.started == 1
        assert [key.task_id for start in rig.coordinator.sent(wire.Start) for key in start.keys] == ["good"]


async def test_an_offer_that_does_not_fit_is_declined_before_it_starts() -> None:
    async with Rig() as rig:
        rig.engine.unfit = crash(Reason.CONTEXT_TOO_LONG)
        rig.coordinator.offer(builders.offer())
        decline = await rig.coordinator.saw(wire.Decline)
        assert decline.reason is Reason.CONTEXT_TOO_LONG
        assert rig.engine.started == 0


async def test_a_replayed_offer_is_declined() -> None:
    async with Rig() as rig:
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: rig.outbox.ledger)
        rig.coordinator.offer(builders.offer())
        decline = await rig.coordinator.saw(wire.Decline)
        assert decline.reason is Reason.REPLAYED_OFFER
        assert rig.engine.started == 1


async def test_an_engine_that_dies_gives_a_failed_result_with_the_reason() -> None:
    async with Rig() as rig:
        rig.engine.fails = crash()
        rig.coordinator.offer(builders.offer())
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.FAILED, Reason.ENGINE_CRASHED)
        assert "Illegal instruction" in body.detail
        assert body.commitment is None


async def test_an_engine_that_stops_before_it_finished_is_not_believed() -> None:
    async with Rig() as rig:
        rig.engine.finishes = False
        rig.coordinator.offer(builders.offer())
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.FAILED, Reason.ENGINE_GARBAGE)


async def test_a_transcript_that_cannot_be_kept_is_no_result() -> None:
    async with Rig() as rig:
        rig.transcripts.fails = StorageError("the directory is gone")
        rig.coordinator.offer(builders.offer())
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.FAILED, Reason.PROOF_FAILED)


async def test_a_transcript_waits_for_room_and_no_new_work_comes_in_meanwhile() -> None:
    async with Rig() as rig:
        rig.transcripts.fails = StorageError("no space left", full=True)
        rig.coordinator.offer(builders.offer())
        await rig.until(rig.node.gates)
        assert rig.node.gates()[0].reason is Reason.STORAGE_FULL
        assert rig.node.credit("main") is None
        rig.transcripts.fails = None
        await rig.pass_time(6.0)
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert body.outcome is Outcome.SUCCEEDED
        assert rig.node.gates() == []


async def test_no_task_is_begun_whose_transcript_might_not_fit() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.transcripts.used_bytes = 950
        rig.engine.go.set()
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert body.outcome is Outcome.SUCCEEDED
        (gate,) = rig.node.gates()
        assert gate.reason is Reason.STORAGE_FULL
        assert "proof.retention_mib" in gate.detail
        assert rig.storage.status().transcripts_bytes == 950
        rig.transcripts.used_bytes = 900
        await rig.pass_time(601.0)  # a sweep
        assert rig.node.gates() == []


@pytest.mark.parametrize("first", ["written", "swept"])
async def test_a_failed_write_and_a_crowded_quota_each_keep_the_gate_shut(first: str) -> None:
    async with Rig() as rig:
        key = builders.offer().key
        rig.storage.shut(key, StorageError("no space left", full=True))
        rig.storage.measured(Room(used_bytes=99, quota_bytes=100))
        ends = {
            "written": lambda: rig.storage.works(key),
            "swept": lambda: rig.storage.measured(Room(used_bytes=9, quota_bytes=100)),
        }
        ends.pop(first)()
        assert [gate.reason for gate in rig.node.gates()] == [Reason.STORAGE_FULL]
        (last,) = ends.values()
        last()
        assert rig.node.gates() == []


async def test_a_cancelled_task_stops_its_engine_at_once() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        key = builders.offer().key
        rig.coordinator.push(wire.Cancel(key=key, reason=Reason.CANCELLED_BY_REQUESTER))
        await rig.until(lambda: rig.engine.stopped)
        assert rig.node.closed[-1].outcome is Outcome.CANCELLED
        assert rig.node.free("main") == 2
        assert rig.coordinator.sent(wire.Result) == []


async def test_a_partitioned_node_stops_its_own_work_before_the_lease_ends() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer(lease_ms=20_000))
        rig.coordinator.answers[wire.Start] = lambda m: confirmed(m, lease_ms=20_000)
        await rig.engine.began.wait()
        rig.coordinator.down = True
        await rig.pass_time(17.5)
        assert rig.engine.stopped == 0
        await rig.pass_time(1.0)
        assert rig.engine.stopped == 1
        assert rig.node.closed[-1].reason is Reason.LEASE_EXPIRED


async def test_a_start_that_gets_no_answer_is_asked_again_until_the_lease_ends() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Start] = _unreachable
        rig.coordinator.offer(builders.offer(lease_ms=10_000))
        await rig.coordinator.saw(wire.Start)
        await rig.pass_time(9.0)
        assert len(rig.coordinator.sent(wire.Start)) > 1
        assert rig.engine.started == 0
        assert rig.node.closed[-1].reason is Reason.LEASE_EXPIRED


def _unreachable(_message: object) -> wire.DownMessage:
    raise LinkError(LinkFault.UNREACHABLE, "no answer")


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


async def test_a_coordinator_that_offers_only_rubbish_is_asked_less_and_less_often() -> None:
    async with Rig() as rig:
        rubbish = Signed(payload="{}", key=rig.coordinator.keys.public_key, signature="00" * 64)
        rig.coordinator.answers[wire.Pull] = lambda _m: wire.Offers(offers=(rubbish,))
        await rig.coordinator.saw(wire.Pull)
        await rig.pass_time(10.0)
        assert len(rig.coordinator.sent(wire.Pull)) < 25
        assert rig.node.attempts == {}


async def test_a_coordinator_that_does_not_wait_is_asked_once_a_second() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Pull] = lambda _m: wire.Offers()
        await rig.coordinator.saw(wire.Pull)
        await rig.pass_time(10.0)
        assert 3 <= len(rig.coordinator.sent(wire.Pull)) <= 12


async def test_a_full_disk_stops_new_work_and_loses_nothing() -> None:
    async with Rig() as rig:
        rig.outbox.full = True
        rig.coordinator.offer(builders.offer())
        await rig.until(rig.node.gates)
        assert rig.node.gates()[0].reason is Reason.STORAGE_FULL
        assert rig.node.credit("main") is None
        assert rig.coordinator.sent(wire.Result) == []
        rig.outbox.full = False
        await rig.pass_time(6.0)
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.node.gates() == []


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
        first.coordinator.answers[wire.Result] = _unreachable
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


async def test_beats_carry_what_is_held_and_obey_the_server_within_reason() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.coordinator.answers[wire.Beat] = lambda m: wire.BeatAck(lease_ms=40_000, beat_s=1e9, renewed=m.held)
        rig.spine.feed(ev.PauseAsked())  # a change of state is told at once
        await rig.until(lambda: rig.coordinator.sent(wire.Beat)[-1].state == "paused")
        beat = rig.coordinator.sent(wire.Beat)[-1]
        assert beat.held == (builders.offer().key,)
        assert beat.reason == "paused"
        await rig.until(lambda: rig.herald.beat_s == 60.0)


async def test_a_welcome_cannot_make_beats_a_storm_or_stop_them() -> None:
    async with Rig() as rig:
        for asked_s, kept_s in ((0.0, 0.5), (1e8, 60.0), (7.0, 7.0)):
            rig.herald.welcomed(
                rig.herald.hello("00"),
                wire.Welcome(session="s", session_ttl_s=60, proto=1, server_time=0, beat_s=asked_s, lease_s=40),
            )
            assert rig.herald.beat_s == kept_s


async def test_directives_are_obeyed_and_unknown_ones_ignored() -> None:
    async with Rig() as rig:
        for kind, state in (("pause", NodeState.PAUSED), ("resume", NodeState.SERVING), ("drain", NodeState.DRAINED)):
            rig.coordinator.push(wire.Directed(directive=wire.Directive(kind="format-disk")))
            rig.coordinator.push(wire.Directed(directive=wire.Directive(kind=kind)))
            await rig.until(lambda wanted=state: rig.node.state is wanted)


async def test_a_directive_ends_no_pause_of_the_owners_and_its_own_is_told_in_plain_words() -> None:
    async with Rig() as rig:
        rig.spine.feed(ev.PauseAsked())
        for directive in (wire.Directive(kind="resume"), wire.Directive(kind="pause", detail="for \x1b[2Jlunch")):
            rig.coordinator.push(wire.Directed(directive=directive))
        await rig.until(lambda: len(rig.node.gates()) > 1)
        mine, its = rig.node.gates()
        assert (mine.reason, its.reason) == (Reason.PAUSED, Reason.COORDINATOR_PAUSED)
        assert its.detail.endswith(": for lunch")


async def test_a_session_that_no_longer_wants_our_lease_stops_it() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        hello = rig.herald.hello("00")
        assert hello.running == (builders.offer().key,)
        rig.herald.welcomed(
            hello, wire.Welcome(session="s", session_ttl_s=60, proto=1, server_time=0, beat_s=10, lease_s=40, wanted=())
        )
        await rig.until(lambda: rig.engine.stopped)
        assert rig.node.closed[-1].reason is Reason.LEASE_LOST


async def test_a_bug_in_one_attempt_ends_that_attempt_alone() -> None:
    async with Rig() as rig:
        rig.engine.words = ["ok", None]  # type: ignore[list-item]
        rig.coordinator.offer(builders.offer("bad"))
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.FAILED, Reason.INTERNAL)
        rig.engine.words = ["ok"]
        rig.coordinator.offer(builders.offer("good"))
        await rig.until(lambda: len(rig.outbox.ledger) == 2)


def test_states_of_the_path_are_the_states_of_the_model() -> None:
    assert [state.value for state in State] == ["leased", "staging", "running", "proving", "reporting", "closed"]
    assert isinstance(builders.offer().key, LeaseKey)


async def test_an_offer_that_comes_twice_changes_nothing_about_the_lease_that_runs() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.coordinator.offer(builders.offer())
        rig.coordinator.offer(builders.offer(idem_key="another name for the same lease"))
        await rig.pass_time(2.0)
        await rig.coordinator.saw(wire.Pull, 4)
        assert rig.coordinator.sent(wire.Decline) == []
        assert rig.engine.started == 1
        rig.engine.go.set()
        await rig.until(lambda: rig.outbox.ledger)


async def test_a_lease_that_came_between_hello_and_welcome_is_kept() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        hello = rig.herald.hello("00")
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.herald.welcomed(
            hello, wire.Welcome(session="s", session_ttl_s=60, proto=1, server_time=0, beat_s=10, lease_s=40)
        )
        rig.engine.go.set()
        await rig.until(lambda: rig.outbox.ledger)


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


async def test_one_open_gate_never_hides_another_that_is_still_shut() -> None:
    async with Rig() as rig:
        full = StorageError("no space left", full=True)
        rig.transcripts.fails = full
        rig.coordinator.offer(builders.offer("waits"))
        await rig.until(rig.node.gates)
        rig.deliver._storage.works(builders.offer("other").key)
        assert [gate.reason for gate in rig.node.gates()] == [Reason.STORAGE_FULL]
        rig.transcripts.fails = None
        await rig.pass_time(6.0)
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.node.gates() == []


async def test_room_for_a_transcript_is_waited_for_no_longer_than_the_result_is_worth() -> None:
    async with Rig() as rig:
        rig.transcripts.fails = StorageError("no space left", full=True)
        rig.coordinator.offer(builders.offer(deadline_ms=20_000))
        await rig.until(rig.node.gates)
        await rig.pass_time(26.0)
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.FAILED, Reason.STORAGE_FULL)


async def test_nothing_new_is_taken_while_a_thousand_results_wait_for_receipts() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = _unreachable
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


async def test_an_attempt_given_out_twice_ends_once_and_work_goes_on() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.coordinator.answers[wire.Result] = _unreachable
        await rig.outbox.put(_earlier("task-1"))
        rig.engine.go.set()
        await rig.until(lambda: not rig.node.attempts or not rig.node.held())
        assert list(rig.outbox.rows) == ["earlier task-1"]
        assert rig.node.gates() == []
        assert rig.node.credit("main")


async def test_another_offer_of_a_waiting_attempt_costs_no_gpu_work() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = _unreachable
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


async def test_a_transition_that_cannot_be_costs_its_attempt_and_no_other() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer("bad"))
        rig.coordinator.offer(builders.offer("good"))
        await rig.until(lambda: rig.engine.started == 2)
        rig.spine.feed(ev.Happened(key=builders.offer("bad").key, event=Event.STAGED))
        assert rig.node.closed[-1].reason is Reason.INTERNAL
        rig.engine.go.set()
        await rig.until(lambda: list(rig.outbox.ledger) == [builders.offer("good").idem_key])


async def test_a_result_that_the_outbox_lost_with_its_file_gives_its_lease_up() -> None:
    """A damaged database was put aside while the agent ran: renewing the lease for ever would lose the task."""
    async with Rig() as rig:
        rig.coordinator.answers[wire.Result] = _unreachable
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
