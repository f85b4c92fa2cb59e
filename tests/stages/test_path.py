"""The path of a task through all stages, and every way in which it is left."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from agent.core import events as ev
from agent.core import wire
from agent.core.attempt import Event
from agent.core.errors import StorageError
from agent.core.model import LeaseKey, Outcome, Reason, State
from agent.core.proof.commitment import read_commitment
from agent.core.proof.header import check_against_offer
from agent.core.proof.signed import seal
from agent.edges.signing import KeyPair
from agent.ports import Room
from tests import builders
from tests.stages.paper import confirmed, crash, unreachable
from tests.stages.rig import Rig


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
        rig.coordinator.answers[wire.Start] = unreachable
        rig.coordinator.offer(builders.offer(lease_ms=10_000))
        await rig.coordinator.saw(wire.Start)
        await rig.pass_time(9.0)
        assert len(rig.coordinator.sent(wire.Start)) > 1
        assert rig.engine.started == 0
        assert rig.node.closed[-1].reason is Reason.LEASE_EXPIRED


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


async def test_room_for_a_transcript_is_waited_for_no_longer_than_the_result_is_worth() -> None:
    async with Rig() as rig:
        rig.transcripts.fails = StorageError("no space left", full=True)
        rig.coordinator.offer(builders.offer(deadline_ms=20_000))
        await rig.until(rig.node.gates)
        await rig.pass_time(26.0)
        body = rig.opened(await rig.coordinator.saw(wire.Result))
        assert (body.outcome, body.reason) == (Outcome.FAILED, Reason.STORAGE_FULL)


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
