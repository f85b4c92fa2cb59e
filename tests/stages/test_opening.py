"""Challenges and judgements through the stages: what is opened, refused, waited for, and remembered."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.core.model import Blob, LeaseKey, VerifyInput
from agent.core.proof.beacon import kept
from agent.core.proof.drand import QUICKNET
from agent.core.proof.leaves import join_leaves
from agent.core.proof.opening import read_opening
from agent.edges.drand import believe
from agent.edges.signing import KeyPair
from agent.ports import Delivered
from agent.stages.opening import AGAIN_S, OPEN_MAX, READS, UPLOADS_AT_ONCE
from agent.stages.prove import SWEEP_S
from tests import builders
from tests.fakes.examiner import BEACON, challenge, judgement, promise
from tests.stages.court import Court


async def test_a_drawn_challenge_is_answered_with_the_leaves_that_were_committed_to() -> None:
    async with Court() as court:
        key = await court.did()
        court.challenges = (challenge(key),)
        await court.beats()
        opening = await court.coordinator.saw(wire.Opening)
        assert opening.blob is not None
        raw = court.coordinator.blobs[opening.blob.sha256]
        assert len(raw) == opening.blob.bytes
        commitment = court.body(key).commitment
        assert commitment is not None
        assert read_opening(raw, commitment).whole
        await court.until(lambda: court.outcomes == {"task-1/0": "opened"})


async def test_the_same_challenge_pushed_and_with_every_beat_is_answered_once_and_again_if_it_goes_on() -> None:
    async with Court() as court:
        key = await court.did()
        court.challenges = (challenge(key), challenge(key))
        court.coordinator.push(challenge(key))
        await court.until(lambda: court.outcomes == {"task-1/0": "opened"})
        await court.beats(2)
        assert len(court.openings) == 1
        court.clock.advance(AGAIN_S)  # the coordinator does not know of the answer: its restart may have lost it
        await court.beats()
        await court.coordinator.saw(wire.Opening, 2)
        assert court.openings[0] == court.openings[1]
        assert len(court.coordinator.blobs) == 1


@pytest.mark.parametrize(
    ("changes", "refusal", "words"),
    [
        ({"beacon": None}, wire.OpeningRefusal.NOT_DRAWN, "no beacon"),
        ({"leaves": (7,)}, wire.OpeningRefusal.NOT_DRAWN, "other leaves"),
        ({"beacon": msgspec.structs.replace(BEACON, value="11" * 32)}, wire.OpeningRefusal.NOT_DRAWN, "promised"),
        ({"kind": wire.ChallengeKind.REVEAL}, wire.OpeningRefusal.NOT_DRAWN, "only verdicts"),
        ({"key": LeaseKey(task_id="other", attempt=1, fence=1)}, wire.OpeningRefusal.UNKNOWN, "no such attempt"),
        ({"key": LeaseKey(task_id="task-1", attempt=1, fence=2)}, wire.OpeningRefusal.UNKNOWN, "no such attempt"),
    ],
)
async def test_a_coordinator_that_lies_gets_plain_words_and_no_leaf(
    changes: dict[str, object], refusal: wire.OpeningRefusal, words: str
) -> None:
    async with Court() as court:
        key = await court.did()
        court.coordinator.push(msgspec.structs.replace(challenge(key), **changes))
        opening = await court.coordinator.saw(wire.Opening)
        assert (opening.blob, opening.refusal) == (None, refusal)
        assert words in opening.detail
        await court.until(lambda: set(court.outcomes.values()) == {"refused"})
        assert court.coordinator.blobs == {}


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [({}, None), ({"round": 1}, wire.OpeningRefusal.NOT_DRAWN), ({"value": "11" * 32}, wire.OpeningRefusal.NOT_DRAWN)],
    ids=["as promised", "another round", "another value than its signature's"],
)
async def test_a_node_that_cannot_check_drands_signatures_opens_for_the_round_that_was_promised(
    changes: dict[str, Any], refusal: wire.OpeningRefusal | None
) -> None:
    async with Court() as court:
        signature = bytes(48)
        value = hashlib.sha256(signature).hexdigest()
        told = wire.Beacon(source=wire.BeaconSource.DRAND, round=9, value=value, signature=signature.hex())
        promised = msgspec.structs.replace(promise(), source=told.source, round=told.round, commitment=QUICKNET.hash)
        coordinator, court.kept = court.coordinator, partial(kept, bls=believe)
        coordinator.answers[wire.Result] = lambda message: coordinator.receipts(message, beacon=promised)
        key = await court.did()
        coordinator.push(challenge(key, beacon=msgspec.structs.replace(told, **changes)))
        opening = await coordinator.saw(wire.Opening)
        assert (opening.refusal, opening.blob is None) == (refusal, refusal is not None)


async def test_a_verdict_is_revealed_whole_and_without_a_beacon() -> None:
    async with Court() as court:
        key = await court.did()
        asked = VerifyInput(evidence=Blob(sha256="00" * 32, bytes=1))
        offer = builders.signed(wire.encode(builders.offer(spec=builders.task(task_input=asked))).decode())
        court.outbox.papers[key] = msgspec.structs.replace(court.outbox.papers[key], offer=offer)
        court.coordinator.push(challenge(key, kind=wire.ChallengeKind.REVEAL, beacon=None, leaves=(0,)))
        opening = await court.coordinator.saw(wire.Opening)
        commitment = court.body(key).commitment
        assert commitment is not None
        assert read_opening(court.coordinator.blobs[opening.blob.sha256], commitment).whole


async def test_what_is_gone_or_damaged_is_said_to_be_so() -> None:
    async with Court() as court:
        gone, damaged, exchanged, dropped = [await court.did(name) for name in ("gone", "damaged", "exchanged", "old")]
        court.transcripts.kept[exchanged] = join_leaves([b"others"])
        del court.transcripts.kept[gone]
        court.outbox.papers[dropped] = Delivered()
        for key in (gone, exchanged, dropped):
            court.coordinator.push(challenge(key))
        await court.coordinator.saw(wire.Opening, 3)
        court.transcripts.unreadable = READS
        court.coordinator.push(challenge(damaged))
        await court.until(lambda: not court.transcripts.unreadable or court.clock.advance(1))
        await court.coordinator.saw(wire.Opening, 4)
        assert {it.challenge_id: it.refusal for it in court.openings} == {
            "gone/0": wire.OpeningRefusal.GONE,
            "exchanged/0": wire.OpeningRefusal.DAMAGED,
            "old/0": wire.OpeningRefusal.GONE,
            "damaged/0": wire.OpeningRefusal.DAMAGED,
        }


async def test_a_disk_that_fails_for_a_moment_costs_no_opening() -> None:
    async with Court() as court:
        key = await court.did()
        court.transcripts.unreadable = READS - 1
        court.coordinator.push(challenge(key))
        await court.until(lambda: court.openings or court.clock.advance(1))
        assert court.openings[0].blob is not None


async def test_a_challenge_waits_for_the_receipt_whose_promise_it_needs() -> None:
    async with Court() as court:
        key = await court.did()
        settled = court.outbox.papers[key]
        court.outbox.papers[key] = msgspec.structs.replace(settled, receipt=None)
        court.coordinator.push(challenge(key))
        await court.pass_time(5)
        assert court.openings == []
        court.outbox.papers[key] = settled
        await court.until(lambda: court.openings or court.clock.advance(1))
        assert court.openings[0].blob is not None


async def test_an_answer_is_repeated_until_it_is_taken() -> None:
    async with Court() as court:
        key = await court.did()
        court.coordinator.down = True
        court.hearing.challenged((challenge(key),))
        await court.pass_time(20)
        assert court.coordinator.blobs == {}
        court.coordinator.down = False
        await court.pass_time(70)
        assert court.openings[-1].blob is not None
        await court.until(lambda: court.outcomes == {"task-1/0": "opened"})


async def test_an_answer_that_is_taken_by_nobody_in_time_is_missed_and_another_challenge_is_not() -> None:
    async with Court() as court:
        key = await court.did()
        court.coordinator.answers[wire.Opening] = _busy
        court.coordinator.push(challenge(key, answer_s=20.0))
        await court.pass_time(40)
        await court.until(lambda: court.outcomes == {"task-1/0": "missed"})
        assert "not in time" in court.proofs.lines["task-1/0"].detail
        del court.coordinator.answers[wire.Opening]
        court.coordinator.push(challenge(key, challenge_id="next"))
        await court.until(lambda: court.outcomes.get("next") == "opened")


def _busy(_opening: wire.Opening) -> wire.DownMessage:
    raise LinkError(LinkFault.REFUSED, "not now", code=wire.RefusalCode.BUSY)


async def test_leaves_that_the_coordinator_lost_go_up_once_more_and_no_oftener() -> None:
    async with Court() as court:
        key = await court.did()
        lost = 0

        def lose(opening: wire.Opening) -> wire.DownMessage:
            nonlocal lost
            assert opening.blob is not None
            lost += opening.blob.sha256 in court.coordinator.blobs
            court.coordinator.blobs.clear()
            raise LinkError(LinkFault.REFUSED, "no such blob", code=wire.RefusalCode.NOT_FOUND)

        court.coordinator.answers[wire.Opening] = lose
        court.coordinator.push(challenge(key))
        await court.until(lambda: court.outcomes == {"task-1/0": "missed"} or court.clock.advance(1))
        assert lost == 2


async def test_no_more_than_two_openings_go_up_at_once_and_refusals_do_not_wait_for_them() -> None:
    async with Court() as court:
        keys = [await court.did(f"t{number}") for number in range(5)]
        court.coordinator.line_is_free.clear()
        for key in keys:
            court.coordinator.push(challenge(key))
        await court.until(lambda: court.coordinator.uploading == UPLOADS_AT_ONCE)
        court.coordinator.push(challenge(LeaseKey(task_id="none", attempt=1, fence=1)))
        assert (await court.coordinator.saw(wire.Opening)).refusal is wire.OpeningRefusal.UNKNOWN
        assert court.coordinator.uploading == UPLOADS_AT_ONCE
        await court.beats()
        court.coordinator.line_is_free.set()
        await court.coordinator.saw(wire.Opening, 6)


async def test_a_flood_of_challenges_is_taken_a_part_at_a_time() -> None:
    async with Court() as court:
        court.outbox.unreadable = True
        flood = tuple(
            challenge(LeaseKey(task_id=f"t{number}", attempt=1, fence=1), answer_s=100_000) for number in range(2000)
        )
        court.hearing.challenged((challenge(flood[0].key, challenge_id="x" * 10_000), *flood))
        await court.until(lambda: len(court.proofs.lines) == OPEN_MAX)
        await court.pass_time(3)
        assert len(court.proofs.lines) == OPEN_MAX
        court.outbox.unreadable = False
        await court.until(lambda: len(court.openings) == OPEN_MAX or court.clock.advance(5))


async def test_the_draw_and_the_leaves_are_computed_off_the_event_loop() -> None:
    async with Court() as court:
        key = await court.did()
        threads: list[int] = []

        def told(_promise: wire.BeaconPromise, _beacon: wire.Beacon) -> None:
            threads.append(threading.get_ident())

        court.kept = told
        court.coordinator.push(challenge(key))
        await court.coordinator.saw(wire.Opening)
        assert threads
        assert threading.get_ident() not in threads


async def test_what_an_open_challenge_needs_is_not_swept() -> None:
    async with Court() as court:
        key = await court.did()
        court.coordinator.answers[wire.Opening] = _busy
        asked_at = court.clock.wall()
        court.coordinator.push(challenge(key, answer_s=100_000.0))
        await court.until(lambda: court.outcomes == {"task-1/0": "asked"})
        court.clock.advance(700)
        assert court.hearing.swept_until(court.clock.wall()) == asked_at
        court.clock.advance(10_000)
        assert court.hearing.swept_until(court.clock.wall()) == court.clock.wall() - 3600
        del court.coordinator.answers[wire.Opening]
        await court.until(lambda: court.outcomes == {"task-1/0": "opened"} or court.clock.advance(60))
        assert court.hearing.swept_until(court.clock.wall()) == court.clock.wall()


async def test_a_clock_that_is_set_while_the_agent_runs_deletes_nothing() -> None:
    async with Court() as court:
        await court.until(lambda: court.transcripts.swept)
        (before,) = court.transcripts.swept
        court.clock.jump(10 * 86_400)
        key = await court.did()
        await court.until(lambda: len(court.transcripts.swept) > 1 or court.clock.advance(60))
        assert court.transcripts.swept[1] - before <= SWEEP_S + 60
        assert court.transcripts.until[key] - before <= 3600 + SWEEP_S + 60


async def test_a_restart_sweeps_nothing_that_was_asked_for_before_and_answers_when_asked_again() -> None:
    first = Court()
    async with first:
        key = await first.did()
        first.coordinator.down = True
        first.hearing.challenged((challenge(key),))
        await first.until(lambda: first.proofs.lines)
        asked_at = first.clock.wall()
    again = Court()
    again.clock.advance(600)
    again.proofs.lines, again.outbox.papers = first.proofs.lines, first.outbox.papers
    again.transcripts.kept = first.transcripts.kept
    async with again:
        await again.until(lambda: again.transcripts.swept)
        assert again.transcripts.swept[0] == asked_at
        again.challenges = (challenge(key, answer_s=3000.0),)
        await again.beats()
        assert (await again.coordinator.saw(wire.Opening)).blob is not None
        await again.until(lambda: again.outcomes == {"task-1/0": "opened"})
        assert again.hearing.swept_until(again.clock.wall()) == again.clock.wall()


async def test_a_full_disk_keeps_no_challenge_from_its_answer_and_what_was_answered_is_written_down_later() -> None:
    async with Court() as court:
        key = await court.did()
        court.proofs.full = True
        court.coordinator.push(challenge(key))
        assert (await court.coordinator.saw(wire.Opening)).blob is not None
        assert court.proofs.lines == {}
        story = await court.hearing.docket.story(9)
        await court.until(lambda: story.challenges)
        court.proofs.full = False
        await court.until(lambda: court.outcomes == {"task-1/0": "opened"} or court.clock.advance(1))


# --------------------------------------------------------------------------- judgements


async def test_judgements_are_kept_in_order_and_the_next_beat_says_so() -> None:
    async with Court() as court:
        court.judged += [judgement(court.coordinator.keys, serial) for serial in (1, 2, 3)]
        await court.beats()
        await court.until(lambda: len(court.proofs.judgements) == 3)
        assert (await court.beats()).judged == 3
        assert [body.serial for body in court.proofs.judgements] == [1, 2, 3]


async def test_a_judgement_that_is_forged_foreign_or_behind_a_gap_is_not_kept_and_the_true_one_is() -> None:
    async with Court() as court:
        keys, stranger = court.coordinator.keys, KeyPair.generate()
        forged = judgement(stranger, 1)
        for bad in (
            forged,
            msgspec.structs.replace(forged, key=keys.public_key),
            judgement(keys, 1, node_id="node-2"),
            judgement(keys, 2),
            msgspec.structs.replace(judgement(keys, 1), payload="{}"),
        ):
            court.judged[:] = [bad, judgement(keys, 1)]
            await court.beats(2)
            assert court.proofs.judgements == []
            assert (await court.beats()).judged == 0
        court.judged[:] = [judgement(keys, 1), judgement(keys, 3), judgement(keys, 2)]
        await court.beats(2)
        assert [body.serial for body in court.proofs.judgements] == [1]


async def test_a_full_disk_loses_no_judgement() -> None:
    async with Court() as court:
        court.proofs.full = True
        court.judged.append(judgement(court.coordinator.keys, 1, judgement=wire.Judgement.FAILED, slashed_micros=5))
        await court.beats(2)
        assert (await court.beats()).judged == 0
        court.proofs.full = False
        await court.beats(2)
        assert [body.serial for body in court.proofs.judgements] == [1]
        assert (await court.beats()).judged == 1
