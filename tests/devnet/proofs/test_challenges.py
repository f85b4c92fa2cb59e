"""From a receipt's promise to a judgement, in the core."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from agent.core import wire
from agent.core.model import TaskKind, Usage
from agent.core.payloads import Judgement, JudgementBody
from agent.core.proof.commitment import commit, read_commitment
from agent.core.proof.drawing import MILLION, drawn_leaves, is_drawn
from agent.core.proof.signed import open_signed
from agent.devnet.core.effects import SaveCase, SaveEpoch, SaveLedgerLine
from agent.devnet.core.proofs.epochs import CHALLENGED_KINDS
from agent.devnet.core.proofs.records import CaseState
from agent.devnet.core.records import LedgerKind
from agent.devnet.core.rules import ProofRules, Refused
from agent.devnet.keys import verify
from tests.devnet.proofs.challenged import ALWAYS, DOUBTFUL, FORGED, NO_CLASS, WRONG_DRAW, Court, blob_of
from tests.devnet.world import transcript_of


def verdict_of(court: Court, signed) -> JudgementBody:
    payload = open_signed(wire.Role.JUDGEMENT, signed, court.keys.public, verify)
    return msgspec.json.decode(payload, type=JudgementBody)


def rules(**changes: object) -> ProofRules:
    return msgspec.structs.replace(ALWAYS, **changes)


# ------------------------------------------------------------------------------ the promise


def test_a_receipt_promises_the_digest_of_a_secret_that_nobody_knows_yet() -> None:
    court = Court(rules(rate_micros=50_000))
    promise = court.settled(court.opener()).beacon
    assert promise is not None
    assert (promise.source, promise.round, promise.rate_micros, promise.leaves) == ("epoch", 1, 50_000, 4)
    secret = court.docket.epoch.secret
    assert promise.commitment == hashlib.sha256(bytes.fromhex(secret)).hexdigest()
    assert secret not in msgspec.json.encode(court.pushed).decode()


def test_without_a_rate_nothing_is_promised_and_no_secret_is_written() -> None:
    court = Court(ProofRules())
    assert court.settled(court.opener()).beacon is None
    court.turn(1000.0)
    assert not any(isinstance(it, SaveEpoch | SaveCase) for it in court.writes)


def test_every_receipt_of_an_epoch_promises_one_secret_and_the_next_epoch_another() -> None:
    court = Court()
    node = court.opener()
    first, second = court.settled(node).beacon, court.settled(node).beacon
    court.turn(61.0)
    third = court.settled(node).beacon
    assert first == second
    assert (third.round, third.commitment != first.commitment) == (2, True)


def test_an_idle_coordinator_begins_no_epochs() -> None:
    court = Court()
    for _ in range(5):
        court.turn(100.0)
    assert court.settled(court.opener()).beacon.round == 1


@pytest.mark.parametrize("rate", [200_000, 500_000])
def test_exactly_what_the_told_secret_draws_is_challenged_and_everybody_can_check_it(rate: int) -> None:
    court = Court(rules(rate_micros=rate))
    node = court.opener()
    receipts = [court.settled(node) for _ in range(40)]
    court.turn(61.0)
    secret = next(it.epoch.secret for it in court.writes if isinstance(it, SaveEpoch) and it.epoch.told)
    assert hashlib.sha256(bytes.fromhex(secret)).hexdigest() == receipts[0].beacon.commitment
    drawn = {it.task_id for it in receipts if is_drawn(bytes.fromhex(secret), it.commitment_root, it.task_id, rate)}
    assert {case.task_id for case in court.docket.cases.values()} == drawn
    assert 0 < len(drawn) < 40


def test_nothing_about_a_draw_shows_before_the_epoch_is_over() -> None:
    court = Court()
    node = court.opener()
    court.settled(node)
    court.turn(59.0)
    assert court.beat(node).challenges == ()
    assert court.pushed == []
    court.turn(1.0)
    assert len(court.beat(node).challenges) == len(court.pushed) == 1


# ------------------------------------------------------------------------------ the challenge


def test_a_challenge_comes_with_every_beat_until_it_is_answered() -> None:
    court = Court()
    node = court.opener()
    first = court.challenged(node)
    court.turn(100.0)
    (again,) = court.beat(node).challenges
    assert again.challenge_id == first.challenge_id
    assert again.answer_s == first.answer_s - 100
    assert (again.kind, again.leaves, again.level) == ("drawn", (), 0)
    assert again.beacon.value
    court.open(node, again)
    assert court.beat(node).challenges == ()


def test_a_beat_carries_sixteen_challenges_and_the_next_the_others() -> None:
    court = Court()
    node = court.opener()
    for _ in range(20):
        court.settled(node)
    court.turn(61.0)
    first = court.beat(node).challenges
    assert len(first) == 16
    for challenge in first:
        court.open(node, challenge)
    assert len(court.beat(node).challenges) == 4


def test_only_the_node_that_was_asked_can_answer() -> None:
    court = Court()
    node, other = court.opener(1), court.opener(2)
    challenge = court.challenged(node)
    with pytest.raises(Refused) as refused:
        court.open(other, challenge, node.opened(challenge.key.task_id))
    assert refused.value.code is wire.RefusalCode.NOT_FOUND
    assert court.beat(other).challenges == ()
    assert court.case_of(challenge).state is CaseState.CHALLENGED


@pytest.mark.parametrize("challenge_id", ["", "c-1/0", "c-1", "/"])
def test_what_nobody_asked_for_is_refused(challenge_id: str) -> None:
    court = Court()
    with pytest.raises(Refused, match="not asked"):
        court.say(court.opener(), wire.Opening(challenge_id=challenge_id, blob=blob_of(b"")))


def test_a_case_that_waits_for_its_beacon_is_not_to_be_guessed() -> None:
    court = Court()
    node = court.opener()
    court.settled(node)
    (case,) = court.docket.cases.values()
    with pytest.raises(Refused, match="not asked"):
        court.say(node, wire.Opening(challenge_id=case.drawn_id(), blob=blob_of(b"")))


@pytest.mark.parametrize(
    "both", [{}, {"blob": blob_of(b""), "refusal": wire.OpeningRefusal.GONE}], ids=["neither", "both"]
)
def test_an_opening_has_leaves_or_says_why_not(both: dict) -> None:
    court = Court()
    node = court.opener()
    challenge = court.challenged(node)
    with pytest.raises(Refused, match="either leaves or a refusal"):
        court.say(node, wire.Opening(challenge_id=challenge.challenge_id, **both))


# ------------------------------------------------------------------------------ what comes of it


def test_a_good_opening_passes_and_its_judgement_reaches_the_node_once() -> None:
    court = Court()
    node = court.opener()
    challenge = court.challenged(node)
    court.open(node, challenge)
    assert court.examine == [court.case_of(challenge).case_id]
    case = court.found(court.examine[0])
    assert (case.state, case.judgement) == (CaseState.JUDGED, Judgement.PASSED)
    (signed,) = court.beat(node).judged
    body = verdict_of(court, signed)
    assert (body.serial, body.judgement, body.task_id) == (1, "passed", challenge.key.task_id)
    assert (body.slashed_micros, body.stake_micros, body.validators) == (0, ALWAYS.stake_micros, 0)
    assert "no model was run" in body.detail
    assert court.beat(node, judged=1).judged == ()


@pytest.mark.parametrize(
    ("found", "judgement"),
    [(WRONG_DRAW, Judgement.FAILED), (FORGED, Judgement.UNOPENED)],
    ids=["draw", "forged"],
)
def test_a_certain_fault_costs_stake_and_stands_in_the_ledger(found, judgement: Judgement) -> None:
    court = Court()
    node = court.opener()
    challenge = court.challenged(node)
    court.open(node, challenge)
    case = court.found(court.examine[0], found)
    assert case.judgement is judgement
    assert (found.fault or found.said()) in case.detail
    (line,) = [it.line for it in court.writes if isinstance(it, SaveLedgerLine) and it.line.amount_micros < 0]
    assert (line.kind, line.amount_micros) == (LedgerKind.SLASHED, -ALWAYS.slash_micros)
    assert court.standing(node).stake_micros == ALWAYS.stake_micros - ALWAYS.slash_micros


def test_who_does_not_open_in_time_has_failed() -> None:
    court = Court()
    node = court.opener()
    challenge = court.challenged(node)
    court.turn(599.0)
    assert court.case_of(challenge).state is CaseState.CHALLENGED
    court.turn(1.0)
    assert court.case_of(challenge).judgement is Judgement.UNOPENED
    assert court.open(node, challenge) == wire.Ack()
    assert court.case_of(challenge).judgement is Judgement.UNOPENED
    assert court.standing(node).unopened == 1


@pytest.mark.parametrize("refusal", list(wire.OpeningRefusal))
def test_who_says_why_it_does_not_open_has_failed_with_these_words(refusal: wire.OpeningRefusal) -> None:
    court = Court()
    node = court.opener()
    challenge = court.challenged(node)
    court.say(node, wire.Opening(challenge_id=challenge.challenge_id, refusal=refusal, detail="so there"))
    case = court.case_of(challenge)
    assert (case.judgement, "so there" in case.detail) == (Judgement.UNOPENED, True)


def test_an_opening_too_large_to_be_passed_on_is_none() -> None:
    court = Court()
    node = court.opener()
    challenge = court.challenged(node)
    large = msgspec.structs.replace(blob_of(b""), bytes=64 << 20)
    court.say(node, wire.Opening(challenge_id=challenge.challenge_id, blob=large))
    assert court.case_of(challenge).judgement is Judgement.UNOPENED


def test_of_several_openings_the_first_counts() -> None:
    court = Court()
    node = court.opener()
    challenge = court.challenged(node)
    court.open(node, challenge)
    for content in (b"another", b"and another"):
        court.open(node, challenge, content)
    assert court.case_of(challenge).opening == blob_of(node.opened(challenge.key.task_id))
    assert len(court.examine) == 1


def test_an_old_opening_answers_no_other_challenge() -> None:
    court = Court()
    node = court.opener()
    old = court.challenged(node)
    court.open(node, old)
    court.found(court.examine[0])
    new = court.challenged(node)
    court.open(node, old)
    assert court.case_of(new).state is CaseState.CHALLENGED
    assert len(court.judged(node)) == 1


# ------------------------------------------------------------------------------ suspicion


def test_a_suspicion_makes_the_next_challenge_certain_and_two_are_a_failure() -> None:
    court = Court(rules(rate_micros=500_000))
    node = court.opener()
    receipts = [court.settled(node) for _ in range(8)]
    court.turn(61.0)
    first, *_ = court.beat(node).challenges
    court.open(node, first)
    assert court.found(court.examine.pop(), DOUBTFUL).judgement is Judgement.SUSPECT
    assert {it.beacon.rate_micros for it in receipts} == {500_000}
    assert court.settled(node).beacon.rate_micros == MILLION
    second, *_ = court.beat(node).challenges
    court.open(node, second)
    case = court.found(court.examine.pop(), DOUBTFUL)
    assert (case.judgement, "suspicion number 2" in case.detail) == (Judgement.FAILED, True)
    assert court.settled(node).beacon.rate_micros == 500_000


def test_a_suspicion_is_forgotten_after_enough_that_was_in_order() -> None:
    court = Court(rules(forgiven_after=3))
    node = court.opener()
    for found in (DOUBTFUL, None, None, None, DOUBTFUL):
        court.open(node, court.challenged(node))
        court.found(court.examine.pop(), *([found] if found else []))
    assert court.standing(node).suspect == 2
    assert court.standing(node).failed == 0


@pytest.mark.parametrize("validators", [0, 2])
def test_passing_with_work_that_nobody_can_repeat_makes_good_for_no_suspicion(validators: int) -> None:
    court = Court(rules(forgiven_after=3, validators=validators))
    node = court.opener()
    for found in (DOUBTFUL, NO_CLASS, NO_CLASS, NO_CLASS, NO_CLASS):
        court.open(node, court.challenged(node))
        court.found(court.examine.pop(), found)
    standing = court.standing(node)
    assert (standing.passed, standing.suspected, standing.clean) == (4, 1, 0)
    assert court.settled(node).beacon.rate_micros == MILLION
    court.open(node, court.challenged(node))
    assert court.found(court.examine.pop(), DOUBTFUL).judgement is Judgement.FAILED


def test_who_has_no_stake_left_gets_no_work() -> None:
    court = Court(rules(slash_micros=6_000_000))
    node = court.opener()
    for left in (4_000_000, 0):
        court.open(node, court.challenged(node))
        court.found(court.examine.pop(), WRONG_DRAW)
        assert court.standing(node).stake_micros == left
    court.submit()
    assert court.pull(node) == []
    assert court.park(node) is not None
    court.submit()
    assert court.granted == {}


@pytest.mark.parametrize("kind", [TaskKind.EXEC, TaskKind.VERIFY])
def test_programs_and_verdicts_are_not_drawn(kind: TaskKind) -> None:
    assert kind not in CHALLENGED_KINDS


# ------------------------------------------------------------------------------ what is too much


def test_of_a_transcript_that_is_too_long_only_what_was_drawn_is_asked_for() -> None:
    court = Court()
    node = court.enrolled()
    court.submit(max_tokens=131_072)
    (offer,) = court.pull(node)
    usage = Usage(prompt_tokens=10, completion_tokens=60_000)
    commitment = node.commitment(offer, "Blue.", usage, transcript_of(60_000))
    court.deliver(node, node.success(offer, usage=usage, commitment=commitment))
    court.turn(61.0)
    (challenge,) = court.beat(node).challenges
    beacon, promised = bytes.fromhex(challenge.beacon.value), ALWAYS.leaves
    assert len(challenge.leaves) == promised
    assert challenge.leaves == drawn_leaves(beacon, commitment.root, offer.task.task_id, commitment.leaves, promised)


def test_a_node_cannot_claim_so_many_candidates_that_nobody_could_look_at_them() -> None:
    court = Court()
    node = court.enrolled()
    court.submit()
    (offer,) = court.pull(node)
    honest = node.success(offer)
    body = msgspec.json.decode(honest.signed.payload, type=wire.ResultBody)
    header = msgspec.structs.replace(read_commitment(body.commitment, node.keys.public), n_probs=60_000)
    receipt = court.deliver(node, node.success(offer, commitment=commit(header, transcript_of(3))))
    assert (receipt.status, receipt.beacon) == (wire.ReceiptStatus.REJECTED, None)
    assert "60000 candidates" in receipt.detail


@pytest.mark.parametrize(
    ("pool", "earned"),
    [
        ({"determinism": "X-0011223344556677"}, 200),
        ({"determinism": "U"}, 100),
        ({"determinism": "X-0011223344556677", "engine": "mystery 1"}, 100),
    ],
    ids=["repeatable", "of class U", "of an engine that nobody knows"],
)
def test_work_that_nobody_can_repeat_is_paid_less(pool: dict[str, str], earned: int) -> None:
    court = Court(price_micros_per_million_tokens=4_000_000)
    node = court.opener()
    court.submit(max_tokens=40)
    (offer,) = court.pull(node)
    assert court.deliver(node, node.answer(offer, **pool)).amount_micros == earned


@pytest.mark.parametrize(("determinism", "billed"), [("X-0011223344556677", 1000), ("U", 0)])
def test_a_prompt_that_nobody_can_count_again_is_paid_by_its_text_at_most(determinism: str, billed: int) -> None:
    """A validator counts the others (tests/stages/test_overcounted.py)."""
    court = Court(rules(unverifiable_micros=MILLION), price_micros_per_million_tokens=1_000_000)
    node = court.opener()
    court.submit(max_tokens=40)
    (offer,) = court.pull(node)
    delivery = node.answer(offer, usage=Usage(prompt_tokens=1000, completion_tokens=40), determinism=determinism)
    most = len(wire.encode(offer.task.input)) // 2 + 128
    assert most < 1000
    assert court.deliver(node, delivery).amount_micros == (billed or most) + 40
