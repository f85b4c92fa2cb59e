"""A restart at any point loses nothing and judges nobody for it."""

from __future__ import annotations

import msgspec
import pytest

from agent.core.payloads import Judgement
from agent.devnet.core.effects import SaveEpoch
from agent.devnet.core.proofs.records import CaseState
from tests.devnet.proofs.challenged import ALWAYS, WRONG_DRAW, Court


def test_an_epoch_goes_on_over_a_restart_and_its_secret_stays_the_promised_one() -> None:
    court = Court()
    node = court.opener()
    first = court.settled(node)
    again = court.restarted()
    assert again.settled(node).beacon == first.beacon
    again.turn(61.0)
    assert len(again.beat(node).challenges) == 2


def test_an_epoch_that_ended_while_nobody_was_there_is_told_at_once() -> None:
    court = Court()
    node = court.opener()
    court.settled(node)
    court.now += 500.0
    again = court.restarted()
    assert [it.epoch.told for it in again.writes if isinstance(it, SaveEpoch)] == [False, True]
    (challenge,) = again.beat(node).challenges
    assert challenge.answer_s == ALWAYS.answer_s
    assert again.settled(node).beacon.round == 2


def test_epochs_are_never_numbered_twice() -> None:
    court = Court()
    node = court.opener()
    court.settled(node)
    court.turn(61.0)
    again = court.restarted().restarted()
    assert again.settled(node).beacon.round == 2


def test_a_challenge_is_asked_again_and_its_time_goes_on() -> None:
    court = Court()
    node = court.opener()
    challenge = court.challenged(node)
    court.turn(100.0)
    again = court.restarted()
    (repeated,) = again.beat(node).challenges
    assert (repeated.challenge_id, repeated.answer_s) == (challenge.challenge_id, challenge.answer_s - 100)
    again.open(node, repeated)
    assert again.found(again.examine[0]).judgement is Judgement.PASSED


def test_a_clock_that_was_set_back_keeps_no_challenge_open_for_ever() -> None:
    court = Court()
    node = court.opener()
    receipt = court.settled(node)
    court.turn(61.0)
    court.wall -= 10_000_000
    again = court.restarted()
    (repeated,) = again.beat(node).challenges
    assert repeated.answer_s == ALWAYS.answer_s
    again.turn(ALWAYS.answer_s + 1)
    assert again.state(receipt.task_id) is CaseState.JUDGED


def test_who_could_not_open_because_the_coordinator_was_away_has_time_to_come_back() -> None:
    court = Court()
    node = court.opener()
    court.challenged(node)
    court.now += 5000.0
    again = court.restarted()
    (challenge,) = again.beat(node).challenges
    assert challenge.answer_s == 120
    again.turn(119.0)
    assert again.case_of(challenge).state is CaseState.CHALLENGED
    again.turn(1.0)
    assert again.case_of(challenge).judgement is Judgement.UNOPENED


@pytest.mark.parametrize("told", [False, True], ids=["before the beacon was told", "when it was challenged"])
@pytest.mark.parametrize(("away_s", "judgement"), [(80_000, None), (90_000, Judgement.VOID)])
def test_a_coordinator_that_was_away_for_a_day_blames_nobody_for_transcripts_that_are_gone(
    away_s: float, judgement: Judgement | None, *, told: bool
) -> None:
    court = Court()
    node = court.opener()
    receipt = court.settled(node)
    if told:
        court.turn(61.0)
    court.now += away_s
    again = court.restarted()
    (case,) = [it for it in again.cases.values() if it.task_id == receipt.task_id]
    assert (case.judgement, len(again.beat(node).challenges)) == (judgement, judgement is None)
    again.turn(ALWAYS.answer_s + 1)
    assert (again.standing(node).stake_micros == ALWAYS.stake_micros) is (judgement is Judgement.VOID)
    assert again.settled(node).beacon.round == 2


def test_who_has_days_to_open_has_them_over_a_restart_too() -> None:
    court = Court(msgspec.structs.replace(ALWAYS, answer_s=300_000.0))
    node = court.opener()
    court.challenged(node)
    court.turn(100_000.0)
    (challenge,) = court.restarted().beat(node).challenges
    assert challenge.answer_s == 200_000


def test_an_opening_that_nobody_had_looked_at_is_looked_at_again() -> None:
    court = Court()
    node = court.opener()
    court.open(node, court.challenged(node))
    again = court.restarted()
    assert again.examine == court.examine
    assert again.found(again.examine[0], WRONG_DRAW).judgement is Judgement.FAILED
    assert again.restarted().examine == []


def test_judgements_standings_and_serials_stay() -> None:
    court = Court()
    node = court.opener()
    for _ in range(2):
        court.open(node, court.challenged(node))
        court.found(court.examine.pop(), WRONG_DRAW)
    again = court.restarted()
    assert again.standing(node) == court.standing(node)
    assert again.beat(node).judged == court.beat(node).judged
    again.open(node, again.challenged(node))
    again.found(again.examine.pop())
    assert [it.serial for it in again.judged(node)] == [1, 2, 3]


@pytest.mark.parametrize("seconds_back", [10, 1000, 10_000_000])
def test_a_wall_clock_that_was_set_back_keeps_no_secret_longer(seconds_back: int) -> None:
    court = Court()
    node = court.opener()
    court.settled(node)
    court.turn(20.0)
    court.wall -= seconds_back
    court.turn(61.0)
    assert len(court.beat(node).challenges) == 1
