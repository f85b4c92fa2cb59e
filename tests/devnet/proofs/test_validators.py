"""From an opening that is good so far to a judgement, by validators that seal before they reveal."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agent.core import wire
from agent.core.fingerprint import Fingerprint
from agent.core.model import Outcome, Reason, TaskKind, Usage
from agent.core.payloads import Judgement, RecomputedLeaf, Subject
from agent.devnet.core.effects import SaveLedgerLine
from agent.devnet.core.proofs import opening
from agent.devnet.core.proofs.level_two import Found
from agent.devnet.core.proofs.records import CaseState, CheckState
from agent.devnet.core.records import LedgerKind, TaskState
from agent.devnet.proof_views import case_view
from tests import builders
from tests.devnet.proofs.challenged import blob_of
from tests.devnet.proofs.validators import EVIDENCE, RULES, Bench, F, X, own_figures, pools, says

DOUBT = says(verdict="suspect", reasons=("chunk 1: 0.41 off on average",))
PROOF = says(verdict="fail", certain=True, reasons=("3 of 40 tokens differ",))


def test_two_others_check_it_and_neither_learns_anything_before_both_are_sealed() -> None:
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node)
    (receipt,) = bench.check(one)
    assert (receipt.status, receipt.amount_micros, receipt.beacon) == (wire.ReceiptStatus.ACCEPTED, 0, None)
    assert bench.reveal(one) == 0
    bench.check(other)
    assert bench.case(case_id).state is CaseState.REVEALING
    assert bench.reveal(one) == 1
    assert bench.case(case_id).state is CaseState.REVEALING
    assert bench.reveal(other) == 1
    case = bench.case(case_id)
    assert (case.state, case.judgement) == (CaseState.JUDGED, Judgement.PASSED)
    assert [it.judgement for it in bench.judgements(node)] == [Judgement.PASSED]
    assert bench.judgements(node)[0].validators == 2
    for validator in (one, other):
        (judged,) = bench.judgements(validator)
        assert (judged.subject, judged.judgement) == (Subject.VERDICT, Judgement.PASSED)
        assert (judged.earned_micros, judged.currency) == (RULES.verdict_reward_micros, "credit")
        assert bench.standing(validator).verdicts == 1
    paid = [it.line for it in bench.writes if isinstance(it, SaveLedgerLine) and it.line.kind is LedgerKind.VERDICT]
    assert {it.node_id for it in paid} == {one.node_id, other.node_id}
    assert {it.amount_micros for it in paid} == {RULES.verdict_reward_micros}


def test_nobody_checks_itself_or_the_same_claim_twice() -> None:
    bench = Bench()
    node, one = bench.opener(1), bench.validator(2)
    both = bench.validator(1)  # the asserter's pools check, too
    bench.checking(node)
    assert bench.pull(both, count=4) == []
    assert len(bench.pull(one, count=4)) == 1
    assert bench.pull(one, count=4) == []


def test_a_pool_that_does_not_do_what_is_claimed_gets_no_check_of_it() -> None:
    bench = Bench()
    node, one = bench.opener(1), bench.validator(2)
    embeds = builders.pool(kinds=(TaskKind.EMBEDDING, TaskKind.VERIFY))
    bench.hello(one, fingerprint=builders.fingerprint(pools=(embeds,)))
    bench.checking(node)
    assert bench.pull(one, count=4) == []


def test_a_check_does_not_wait_behind_all_that_was_asked_for_before() -> None:
    """In a queue that is longer than its deadline no result would ever be checked."""
    bench = Bench()
    node, one = bench.opener(1), bench.validator(2)
    challenge = bench.challenged(node)
    earlier = bench.submit()
    bench.open(node, challenge)
    found = Found(repeatable=True, determinism=F)
    bench.take(opening.examined(bench.book, bench.when, bench.case_of(challenge).case_id, found, EVIDENCE))
    assert [it.task.kind for it in bench.pull(one)] == [TaskKind.VERIFY]
    assert [it.task.task_id for it in bench.pull(one)] == [earlier]


def test_a_place_is_kept_for_whoever_repeats_to_the_bit() -> None:
    bench = Bench()
    node, near, far, other = bench.opener(1), bench.validator(2, X), bench.validator(3), bench.validator(4)
    case_id = bench.checking(node, determinism=X)
    assert len(bench.pull(far, count=4)) == 1
    assert bench.pull(other, count=4) == []
    assert len(bench.pull(near, count=4)) == 1
    first = bench.case(case_id).checks[0].task_id
    assert bench.book.tasks[first].progress.lease.node_id == near.node_id


def test_a_place_is_not_kept_for_ever() -> None:
    bench = Bench()
    node, _near, far, other = bench.opener(1), bench.validator(2, X), bench.validator(3), bench.validator(4)
    bench.checking(node, determinism=X)
    assert len(bench.pull(far, count=4)) == 1
    bench.turn(31.0)
    assert len(bench.pull(other, count=4)) == 1


def test_a_failure_that_two_prove_costs_the_node_its_stake() -> None:
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node)
    for validator in (one, other):
        bench.check(validator, PROOF)
    for validator in (one, other):
        bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.FAILED
    (judged,) = bench.judgements(node)
    assert (judged.judgement, judged.validators) == (Judgement.FAILED, 2)
    assert judged.slashed_micros == RULES.slash_micros
    assert "3 of 40 tokens differ" in judged.detail


def test_before_a_stake_is_touched_a_third_confirms_it_where_there_is_one() -> None:
    bench = Bench()
    node, *three = bench.opener(1), bench.validator(2), bench.validator(3), bench.validator(4)
    case_id = bench.checking(node)
    for validator in three[:2]:
        bench.check(validator, PROOF)
    for validator in three[:2]:
        bench.reveal(validator)
    assert bench.judgements(node) == []
    bench.check(three[2], PROOF)
    bench.reveal(three[2])
    assert bench.case(case_id).judgement is Judgement.FAILED
    assert bench.judgements(node)[0].validators == 3


def test_one_who_calls_a_failure_certain_that_three_others_refute_costs_the_node_nothing() -> None:
    bench = Bench()
    node, liar, *others = bench.opener(1), *(bench.validator(seed) for seed in (2, 3, 4, 5))
    case_id = bench.checking(node)
    bench.check(liar, PROOF)
    bench.check(others[0])
    for validator in (liar, *others):
        bench.reveal(validator)
    for validator in others[1:]:
        bench.check(validator)
        bench.reveal(validator)
    case = bench.case(case_id)
    assert (case.judgement, case.level) == (Judgement.PASSED, 0)
    assert bench.standing(liar).verdicts_wrong == 1
    assert [bench.standing(it).verdicts_wrong for it in others] == [0, 0, 0]


def test_a_doubt_leads_to_new_validators_and_more_leaves_and_at_last_to_a_suspicion() -> None:
    bench = Bench()
    node = bench.opener(1)
    case_id = bench.checking(node)
    asked = []
    pairs = [(bench.validator(10 * level + 2), bench.validator(10 * level + 3)) for level in range(3)]
    for level, pair in enumerate(pairs):
        assert bench.case(case_id).level == level
        for validator in pair:
            bench.check(validator, DOUBT)
        asked += [set(sealed.offer.task.input.leaves) for sealed in pair[0].sealed.values()]
        for validator in pair:
            assert bench.reveal(validator) == 1
    assert asked[0] <= asked[1] <= asked[2]
    case = bench.case(case_id)
    assert (case.state, case.judgement) == (CaseState.JUDGED, Judgement.SUSPECT)
    assert bench.standing(node).suspected == 1
    assert bench.judgements(node)[-1].slashed_micros == 0


def test_what_each_validator_said_is_told_when_the_case_is_judged_and_not_before() -> None:
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node)
    for validator in (one, other):
        bench.check(validator, PROOF)
    assert bench.reveal(one) == 1
    view = case_view(bench.case(case_id))
    assert (view.revealed, view.verdicts) == (1, ())
    bench.reveal(other)
    told = [(it.node_id, it.verdict, it.certain, it.reasons) for it in case_view(bench.case(case_id)).verdicts]
    assert told == [(it.node_id, "fail", True, ("3 of 40 tokens differ",)) for it in (one, other)]


def test_a_doubt_that_nobody_shares_is_counted_against_who_had_it() -> None:
    bench = Bench()
    node = bench.opener(1)
    case_id = bench.checking(node)
    doubter, honest, *more = (bench.validator(seed) for seed in (2, 3, 4, 5))
    bench.check(doubter, DOUBT)
    bench.check(honest)
    for validator in (doubter, honest):
        bench.reveal(validator)
    assert (bench.case(case_id).level, bench.case(case_id).state) == (1, CaseState.CHECKING)
    for validator in more:
        bench.check(validator)
    for validator in more:
        bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.PASSED
    assert bench.standing(doubter).verdicts_wrong == 1
    assert not bench.standing(doubter).barred
    assert bench.judgements(doubter)[0].slashed_micros == 0
    assert bench.standing(honest).verdicts_wrong == 0


def test_a_copy_of_the_claimed_figures_is_seen_slashed_and_replaced() -> None:
    bench = Bench()
    node, copier, honest = bench.opener(1), bench.validator(2), bench.validator(3)
    claimed = tuple(RecomputedLeaf(leaf=leaf, sha256=own_figures("node", leaf)) for leaf in range(2))
    case_id = bench.checking(node, figures=claimed)
    bench.check(copier, says(recomputed=claimed))
    bench.check(honest)
    for validator in (copier, honest):
        bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.PASSED
    (judged,) = bench.judgements(copier)
    assert (judged.judgement, judged.slashed_micros) == (Judgement.FAILED, RULES.verdict_slash_micros)
    assert "to the bit" in judged.detail
    assert bench.judgements(honest)[0].judgement is Judgement.PASSED


def test_figures_that_others_come_to_as_well_are_no_copies() -> None:
    """Where an engine reads a prompt as it generates, honest figures are the claimed ones."""
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    claimed = tuple(RecomputedLeaf(leaf=leaf, sha256=own_figures("node", leaf)) for leaf in range(2))
    case_id = bench.checking(node, figures=claimed)
    for validator in (one, other):
        bench.check(validator, says(recomputed=claimed))
    for validator in (one, other):
        bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.PASSED
    assert [it.judgement for who in (one, other) for it in bench.judgements(who)] == [Judgement.PASSED] * 2


def test_of_three_of_one_class_the_one_with_other_figures_is_found_out() -> None:
    bench = Bench()
    node = bench.opener(1)
    case_id = bench.checking(node)
    odd, one, other = (bench.validator(seed, X) for seed in (2, 3, 4))
    invented = says(recomputed=(RecomputedLeaf(leaf=0, sha256="ab" * 32),))
    bench.check(odd, invented)
    bench.check(one)
    for validator in (odd, one):
        bench.reveal(validator)
    assert bench.case(case_id).state is CaseState.CHECKING
    assert [it.judgement for it in bench.judgements(odd)] == []
    bench.check(other)
    bench.reveal(other)
    assert bench.case(case_id).judgement is Judgement.PASSED
    assert bench.judgements(odd)[0].judgement is Judgement.FAILED
    assert {bench.judgements(it)[0].judgement for it in (one, other)} == {Judgement.PASSED}


@pytest.mark.parametrize("shown", [b"", b"garbage", blob_of(b"x").sha256.encode()])
def test_whoever_reveals_anything_else_is_replaced(shown: bytes) -> None:
    bench = Bench()
    node, bad, good = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node)
    for validator in (bad, good):
        bench.check(validator)
    more = bench.validator(4)
    bench.reveal(bad, shown)
    bench.reveal(good)
    assert [it.state for it in bench.case(case_id).checks] == [
        CheckState.GONE,
        CheckState.REVEALED,
        CheckState.ASKED,
    ]
    bench.check(more)
    bench.reveal(more)
    assert bench.case(case_id).judgement is Judgement.PASSED


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": '"' + "m" * (1 << 19) + '"'},
        {"reasons": ("r" * 501,)},
        {"reasons": ("r",) * 17},
        {"salt": "5a" * 300},
        {"recomputed": (RecomputedLeaf(leaf=0, sha256="ab" * 33),)},
        {"recomputed": (RecomputedLeaf(leaf=0, sha256="ab" * 32),) * 2},
        {"recomputed": (RecomputedLeaf(leaf=1 << 40, sha256="ab" * 32),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_verdict_longer_than_what_there_is_to_say_is_none(changes: dict[str, Any]) -> None:
    """It would stay with its case for ever."""
    bench = Bench()
    node, long, good = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node)
    bench.check(long, says(**changes))
    bench.check(good)
    for validator in (long, good):
        bench.reveal(validator)
    assert [it.state for it in bench.case(case_id).checks] == [CheckState.GONE, CheckState.REVEALED]


def test_who_is_of_another_class_cannot_say_that_it_repeated_to_the_bit() -> None:
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node, determinism=X)
    bench.check(one, says(exact=True))
    bench.check(other)
    for validator in (one, other):
        bench.reveal(validator)
    assert [it.state for it in bench.case(case_id).checks] == [CheckState.GONE, CheckState.REVEALED]
    assert bench.case(case_id).judgement is Judgement.PASSED


def test_of_a_claim_that_is_not_exact_nobody_can_say_that_it_repeated_to_the_bit() -> None:
    """Else two of its own class could prove among themselves what nobody could refute."""
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node, determinism=F)
    for validator in (one, other):
        bench.check(validator, says(verdict="fail", certain=True, exact=True, reasons=("differs",)))
    for validator in (one, other):
        bench.reveal(validator)
    assert {check.state for check in bench.case(case_id).checks} == {CheckState.GONE}
    assert bench.standing(node).stake_micros == RULES.stake_micros


def test_where_nobody_comes_for_a_closer_look_one_alone_proves_nothing() -> None:
    bench = Bench()
    node, doubter, liar = bench.opener(1), bench.validator(2), bench.validator(3, X)
    case_id = bench.checking(node, determinism=X)
    bench.validator(4)  # is there, and never pulls
    bench.check(liar, says(verdict="fail", certain=True, exact=True, reasons=("differs",)))
    bench.check(doubter, DOUBT)
    for validator in (doubter, liar):
        bench.reveal(validator)
    for _ in range(12):
        bench.hear_all()
        bench.turn(RULES.verify_s)
    assert (bench.case(case_id).level, bench.case(case_id).state) == (1, CaseState.JUDGED)
    assert bench.case(case_id).judgement is Judgement.SUSPECT
    assert bench.standing(node).stake_micros == RULES.stake_micros


def test_who_alone_can_repeat_to_the_bit_is_not_contradicted_by_those_who_cannot() -> None:
    bench = Bench()
    node, near, *far = bench.opener(1), bench.validator(2, X), *(bench.validator(seed) for seed in range(3, 6))
    case_id = bench.checking(node, determinism=X)
    bench.check(near, says(verdict="fail", certain=True, exact=True, reasons=("3 of 40 tokens differ",)))
    for _ in range(4):
        for validator in far:
            bench.check(validator)
        for validator in (near, *far):
            bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.PASSED
    assert (bench.standing(near).verdicts, bench.standing(near).verdicts_wrong) == (1, 0)
    (told,) = bench.judgements(near)
    assert (told.judgement, told.earned_micros) == (Judgement.VOID, 0)
    assert [it.earned_micros for it in bench.judgements(far[0])] == [RULES.verdict_reward_micros]


def test_verdicts_that_cancel_one_another_are_not_paid() -> None:
    bench = Bench()
    node, liar, honest = bench.opener(1), bench.validator(2), bench.validator(3)
    bench.checking(node)
    bench.check(liar, says(verdict="fail", certain=True, reasons=("differs",)))
    bench.check(honest)
    for validator in (liar, honest):
        bench.reveal(validator)
    told = [*bench.judgements(liar), *bench.judgements(honest)]
    assert [(it.judgement, it.earned_micros) for it in told] == [(Judgement.VOID, 0)] * 2
    assert [bench.standing(it).kept for it in (liar, honest)] == [0, 0]


def test_one_who_lies_beside_one_who_does_not_costs_the_node_nothing_however_often() -> None:
    bench = Bench()
    node, liar, honest = bench.opener(1), bench.validator(2), bench.validator(3)
    for _ in range(RULES.suspicions):
        case_id = bench.checking(node)
        bench.check(liar, says(verdict="fail", certain=True, reasons=("differs",)))
        bench.check(honest)
        for validator in (liar, honest):
            bench.reveal(validator)
        assert bench.case(case_id).judgement is Judgement.VOID
    assert (bench.standing(node).suspected, bench.standing(node).stake_micros) == (0, RULES.stake_micros)


def test_a_doubt_waits_for_nobody_who_left_long_ago_without_a_word() -> None:
    bench = Bench()
    bench.validator(4)  # and its machine is switched off
    bench.turn(10 * RULES.verify_s)
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node)
    for validator in (one, other):
        bench.check(validator, DOUBT)
    for validator in (one, other):
        bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.SUSPECT


def test_where_no_validator_comes_nobody_is_blamed() -> None:
    bench = Bench()
    node = bench.opener(1)
    case_id = bench.checking(node)
    for _ in range(10):
        bench.turn(101.0)
    case = bench.case(case_id)
    assert (case.state, case.judgement) == (CaseState.JUDGED, Judgement.VOID)
    assert bench.standing(node).void == 1
    assert {bench.book.tasks[it.task_id].progress.state for it in case.checks} == {TaskState.FAILED}


def test_a_validator_that_fails_or_gives_back_is_no_verdict() -> None:
    bench = Bench()
    node, one = bench.opener(1), bench.validator(2)
    case_id = bench.checking(node)
    (offer,) = bench.pull(one)
    bench.deliver(one, one.ending(offer, Outcome.HANDED_BACK, Reason.UNCALIBRATED))
    assert bench.case(case_id).checks[0].state is CheckState.ASKED
    assert len(bench.pull(bench.validator(3), count=4)) == 1


def test_a_sealed_result_tells_its_root_and_nothing_else() -> None:
    bench = Bench()
    node, one = bench.opener(1), bench.validator(2)
    bench.checking(node)
    (offer,) = bench.pull(one)
    delivery = one.seal(offer, one.verdict(offer))
    other = one.seal(offer, one.verdict(offer, verdict="fail"))
    receipt = bench.deliver(one, replace(other, output=delivery.output))
    assert receipt.status is wire.ReceiptStatus.REJECTED


def test_a_restart_loses_no_check_and_no_verdict() -> None:
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node)
    bench.check(one)
    again = bench.restarted()
    again.__class__ = Bench
    for validator in (one, other):
        again.hello(validator, fingerprint=_pools())
    again.check(other)
    third = again.restarted()
    third.__class__ = Bench
    for validator in (one, other):
        third.hello(validator, fingerprint=_pools())
        assert third.reveal(validator) == 1
    assert third.case(case_id).judgement is Judgement.PASSED


def _pools() -> Fingerprint:
    return builders.fingerprint(pools=pools(F))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_is_set_back_keeps_no_case_waiting_for_who_is_silent(restarted: bool) -> None:
    bench = Bench()
    node = bench.opener(1)
    case_id = bench.checking(node)
    for seed in (2, 3):
        bench.check(bench.validator(seed))
    bench.wall -= 10_000_000
    court = bench.restarted() if restarted else bench
    assert court.case(case_id).state is CaseState.REVEALING
    court.turn(RULES.verify_s + 1)
    assert {check.state for check in court.case(case_id).checks[:2]} == {CheckState.GONE}


def test_a_clock_that_is_set_forward_makes_nobody_silent_who_has_time_left() -> None:
    bench = Bench()
    validators = [bench.validator(seed) for seed in (2, 3)]
    case_id = bench.checking(bench.opener(1))
    bench.turn(RULES.verify_s - 10)
    for validator in validators:
        bench.beat(validator)
        bench.check(validator)
    bench.wall += 10_000_000
    bench.turn(11.0)  # the deadline of their checks would ring now
    for validator in validators:
        assert bench.beat(validator).challenges[0].answer_s == RULES.verify_s - 11
        bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.PASSED
    assert [bench.standing(it).silences for it in validators] == [0, 0]


def test_a_reveal_that_is_repeated_changes_nothing() -> None:
    bench = Bench()
    node, one, other = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node)
    for validator in (one, other):
        bench.check(validator)
    (challenge,) = bench.beat(one).challenges
    shown = one.leaf(challenge.key.task_id)
    message = wire.Opening(challenge_id=challenge.challenge_id, blob=blob_of(shown))
    for _ in range(2):
        bench.take(opening.take(bench.book, bench.when, one.node_id, message, shown))
    assert bench.case(case_id).state is CaseState.REVEALING


def test_work_that_nobody_could_check_is_paid_as_unverifiable_until_some_of_it_passes() -> None:
    bench = Bench(price_micros_per_million_tokens=4_000_000)
    node, one = bench.opener(1), bench.validator(2)
    case_id = bench.checking(node)
    for offer in bench.pull(one, count=4):
        bench.deliver(one, one.ending(offer, Outcome.HANDED_BACK, Reason.UNCALIBRATED))
    for _ in range(10):
        bench.turn(101.0)
    assert bench.case(case_id).judgement is Judgement.VOID
    assert bench.settled(node).amount_micros == 100
    bench.submit(max_tokens=40)
    (offer,) = bench.pull(node)
    usage = Usage(prompt_tokens=1_000, completion_tokens=40)
    assert bench.deliver(node, node.answer(offer, usage=usage)).amount_micros < 500, "its prompt nobody can count"
    other = bench.validator(3)
    case_id = bench.checking(node)
    for _ in range(3):
        for validator in (one, other):
            bench.check(validator)
            bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.PASSED
    assert bench.settled(node).amount_micros == 200


def test_what_is_too_long_for_validators_does_not_pass_and_is_paid_as_unverifiable() -> None:
    bench = Bench(price_micros_per_million_tokens=4_000_000)
    node = bench.opener(1)
    challenge = bench.challenged(node)
    bench.open(node, challenge)
    assert bench.found(bench.examine.pop()).judgement is Judgement.VOID  # no evidence could be written down
    assert bench.settled(node).amount_micros == 100


def test_who_passes_a_claim_without_figures_of_what_was_asked_has_said_nothing() -> None:
    bench = Bench()
    node, lazy, one = bench.opener(1), bench.validator(2), bench.validator(3)
    case_id = bench.checking(node, known=(0, 1))
    bench.check(lazy, says(recomputed=()))
    bench.check(one)
    for validator in (lazy, one):
        bench.reveal(validator)
    assert [it.state for it in bench.case(case_id).checks[:2]] == [CheckState.GONE, CheckState.REVEALED]
    assert [(it.judgement, it.slashed_micros) for it in bench.judgements(lazy)] == [(Judgement.UNOPENED, 0)]
