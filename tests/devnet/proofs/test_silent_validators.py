"""Validators that take checks and do not see them through are told so, and rest for a while; a crash is forgiven."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import wire
from agent.core.model import Outcome, Reason
from agent.core.payloads import Judgement, Subject
from agent.devnet.core.proofs.assigning import available
from agent.devnet.core.proofs.records import CheckState, Standing
from agent.devnet.core.proofs.standing import after_silence, after_verdict
from agent.devnet.core.proofs.verdicts import Blame, Opinion
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import ProofRules
from tests import builders
from tests.devnet.proofs.validators import RULES, Bench, Validator, pools

LEASE_S = 40.0
DAY_S = 86_400


def back(bench: Bench, validator: Validator) -> None:
    bench.hello(validator, fingerprint=builders.fingerprint(pools=pools(validator.determinism)))


def sealed_and_silent(bench: Bench, silent: Validator, others: tuple[Validator, ...]) -> str:
    """A case of which everybody seals a verdict, and one does not reveal it."""
    case_id = bench.checking(bench.opener(1))
    for validator in (silent, others[0]):
        bench.check(validator)
    bench.reveal(others[0])
    bench.turn(RULES.verify_s + 1)
    return case_id


def test_who_seals_and_never_reveals_is_told_and_after_the_third_time_rests() -> None:
    bench = Bench()
    silent, other = bench.validator(2), bench.validator(3)
    for number in range(RULES.silences):
        assert bench.standing(silent).rests_until == 0
        sealed_and_silent(bench, silent, (other,))
        assert bench.standing(silent).silences == number + 1
    *before, last = bench.judgements(silent)
    assert {(it.subject, it.judgement, it.slashed_micros) for it in (*before, last)} == {
        (Subject.VERDICT, Judgement.UNOPENED, 0)
    }
    assert "sealed and not revealed" in last.detail
    assert ("no more checks" in last.detail, any("no more checks" in it.detail for it in before)) == (True, False)
    assert (bench.standing(silent).rests_until, bench.standing(silent).barred) == (bench.when.at + DAY_S, False)
    assert (last.barred, any(it.barred for it in before)) == (True, False)
    bench.checking(bench.opener(1))
    assert bench.pull(silent, count=4) == []
    assert bench.judgements(other)[-1].judgement is Judgement.PASSED


def test_who_has_little_time_for_a_check_is_there_between_two_beats_too() -> None:
    bench = Bench(msgspec.structs.replace(RULES, verify_s=5.0))
    others = (bench.validator(2), bench.validator(3))
    node = bench.opener(1)
    challenge = bench.challenged(node)
    bench.hear_all()
    bench.turn(9.0)
    bench.open(node, challenge)
    case = bench.case_of(challenge)
    assert available(bench.book, bench.when, case) == len(others)


def test_who_refuses_to_reveal_is_silent_too() -> None:
    bench = Bench()
    silent, other = bench.validator(2), bench.validator(3)
    bench.checking(bench.opener(1))
    for validator in (silent, other):
        bench.check(validator)
    (challenge,) = bench.beat(silent).challenges
    refusal = wire.Opening(challenge_id=challenge.challenge_id, refusal=wire.OpeningRefusal.GONE, detail="no")
    bench.say(silent, refusal)
    (told,) = bench.judgements(silent)
    assert (told.judgement, told.detail.endswith("does not open it: no")) == (Judgement.UNOPENED, True)


def test_who_has_rested_is_asked_again_and_once_more_silent_rests_again() -> None:
    bench = Bench()
    silent, other = bench.validator(2), bench.validator(3)
    for _ in range(RULES.silences):
        sealed_and_silent(bench, silent, (other,))
    bench.turn(DAY_S)
    again = sealed_and_silent(bench, silent, (other,))
    assert silent.node_id in {it.node_id for it in bench.case(again).checks}
    assert bench.standing(silent).rests_until == bench.when.at + DAY_S
    bench.checking(bench.opener(1))
    assert bench.pull(silent, count=4) == []


def test_who_takes_checks_and_never_seals_rests_after_three_times() -> None:
    bench = Bench()
    node, silent = bench.opener(1), bench.validator(2)
    for _ in range(RULES.silences):
        bench.checking(node)
        bench.beat(silent)
        (offer,) = bench.pull(silent)
        bench.start(silent, offer.key)
        bench.turn(LEASE_S + 1)
    assert bench.standing(silent).rests_until
    assert "taken and not delivered" in bench.judgements(silent)[0].detail
    bench.checking(node)
    assert bench.pull(silent, count=4) == []


def test_who_keeps_a_lease_alive_and_delivers_nothing_is_silent_at_the_deadline() -> None:
    bench = Bench()
    node, silent = bench.opener(1), bench.validator(2)
    bench.checking(node)
    (offer,) = bench.pull(silent)
    bench.start(silent, offer.key)
    for _ in range(11):
        bench.turn(10.0)
        bench.beat(silent, offer.key)
    assert [it.judgement for it in bench.judgements(silent)] == [Judgement.UNOPENED]


def test_offers_that_were_never_confirmed_are_no_silence() -> None:
    bench = Bench()
    node, cut_off = bench.opener(1), bench.validator(2)
    for _ in range(RULES.silences + 1):
        bench.checking(node)
        bench.beat(cut_off)
        bench.pull(cut_off)
        bench.turn(LEASE_S + 1)
    assert bench.judgements(cut_off) == []


def test_an_offer_that_was_never_confirmed_until_its_deadline_is_none_either() -> None:
    bench = Bench(msgspec.structs.replace(RULES, verify_s=16.0))
    node, cut_off = bench.opener(1), bench.validator(2)
    bench.checking(node)
    bench.turn(7.0)
    (offer,) = bench.pull(cut_off)
    bench.turn(9.5)
    assert bench.book.tasks[offer.task.task_id].progress.state is TaskState.FAILED
    assert bench.judgements(cut_off) == []


def test_who_got_a_check_late_is_not_blamed_for_the_deadline() -> None:
    bench = Bench()
    node, late = bench.opener(1), bench.validator(2)
    bench.checking(node)
    bench.turn(RULES.verify_s - 30.0)
    (offer,) = bench.pull(late)
    bench.start(late, offer.key)
    bench.turn(31.0)
    assert bench.judgements(late) == []


def test_what_is_given_back_or_fails_is_no_silence() -> None:
    bench = Bench()
    node, busy = bench.opener(1), bench.validator(2)
    for outcome, reason in (
        (Outcome.HANDED_BACK, Reason.DRAINING),
        (Outcome.DECLINED, Reason.STARTING),
        (Outcome.FAILED, Reason.ENGINE_CRASHED),
    ):
        bench.checking(node)
        (offer,) = bench.pull(busy)
        if outcome is Outcome.DECLINED:
            bench.decline(busy, offer.key, reason)
        else:
            bench.deliver(busy, busy.ending(offer, outcome, reason))
    assert bench.standing(busy) == Standing(node_id=busy.node_id, stake_micros=RULES.stake_micros)


def test_a_crash_with_checks_in_hand_is_one_silence_and_the_node_goes_on() -> None:
    """Some are not sealed, others not revealed: all of it is one crash."""
    bench = Bench()
    crashing, other = bench.validator(2), bench.validator(3)
    node = bench.opener(1)
    for _ in range(4):
        bench.hear_all()
        bench.checking(node)
    offers = bench.pull(crashing, count=4)
    assert len(offers) == 4
    for offer in offers:
        bench.start(crashing, offer.key)
    for offer in offers[:2]:
        bench.deliver(crashing, crashing.seal(offer, crashing.verdict(offer)))
    bench.check(other)
    bench.turn(LEASE_S + 1)
    bench.turn(RULES.verify_s + 1)
    standing = bench.standing(crashing)
    assert (standing.unkept, standing.silences, standing.rests_until) == (4, 1, 0)
    back(bench, crashing)
    bench.checking(node)
    assert len(bench.pull(crashing)) == 1


def test_verdicts_that_stand_make_good_for_a_silence() -> None:
    rules = ProofRules(silences=3, forgiven_after=10)
    standing = after_silence(Standing(node_id="n-1", stake_micros=1), 5, 7, 0, rules)
    for _ in range(9):
        standing = after_verdict(standing, None, rules)
    assert standing.silences == 1
    assert after_verdict(standing, None, rules).silences == 0


def test_who_fails_two_checks_of_a_case_gets_no_third() -> None:
    bench = Bench()
    node, failing = bench.opener(1), bench.validator(2)
    case_id = bench.checking(node)
    for _ in range(2):
        (offer,) = bench.pull(failing)
        bench.deliver(failing, failing.ending(offer, Outcome.FAILED, Reason.ENGINE_CRASHED))
        bench.turn(6.0)
    assert bench.pull(failing, count=4) == []
    assert bench.standing(failing).unkept == 0
    assert {it.state for it in bench.case(case_id).checks} == {CheckState.ASKED}
    assert len(bench.pull(bench.validator(3), count=4)) == 1


@pytest.mark.parametrize("allowed", [1, 2, 3, 5])
@given(events=st.lists(st.sampled_from(["stands", "silent", "in hand", "blamed"]), max_size=60))
def test_after_so_many_silences_it_rests_however_they_are_mixed_with_verdicts(allowed: int, events: list[str]) -> None:
    rules = ProofRules(silences=allowed, forgiven_after=4)
    blame = Blame(Opinion("v-1", "n-1", 0, "", None), "why", grave=False)  # type: ignore[arg-type]
    standing, count, clean = Standing(node_id="n-1", stake_micros=1), 0, 0
    for fence, event in enumerate(events, 1):
        before = standing
        match event:
            case "silent":
                standing, count, clean = after_silence(standing, fence, fence, fence, rules), count + 1, 0
                assert (standing.rests_until == fence + DAY_S) is (count >= allowed)
            case "in hand":
                standing = after_silence(standing, standing.silent_fence, fence, fence, rules)
            case "stands":
                standing, clean = after_verdict(standing, None, rules), clean + 1
                count, clean = (max(count - 1, 0), 0) if clean == 4 and count else (count, clean)
            case _:
                standing = after_verdict(standing, blame, rules)
        assert standing.silences == count
        assert (standing.rests_until, standing.barred) >= (before.rests_until, False)
        assert standing.unkept - before.unkept == (event in ("silent", "in hand"))
