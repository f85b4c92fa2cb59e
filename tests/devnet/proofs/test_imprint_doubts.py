"""Not every validator has an engine for hidden states: who has one is not blamed by those who have none."""

from __future__ import annotations

import msgspec
import pytest

from agent.core.payloads import Judgement
from agent.devnet.core.proofs.records import CheckState
from tests.devnet.proofs.validators import Bench, says

FAR = ("imprint 0: 60 of 128 exponents differ",)


@pytest.mark.parametrize(("looked", "wrong"), [(0, 0), (2, 1)])
def test_a_doubt_by_imprints_is_refuted_by_those_alone_who_looked_at_them(looked: int, wrong: int) -> None:
    bench = Bench()
    node, doubting, *others = bench.opener(1), *(bench.validator(seed) for seed in range(2, 6))
    case_id = bench.checking(node, imprints=2)
    bench.check(doubting, says(verdict="suspect", reasons=FAR, imprints=2))
    bench.check(others[0], says(imprints=looked))
    for pair in ((doubting, others[0]), others[1:]):
        for validator in pair:
            bench.check(validator, says(imprints=looked))
        for validator in pair:
            bench.reveal(validator)
    assert bench.case(case_id).judgement is Judgement.PASSED
    assert bench.standing(doubting).verdicts_wrong == wrong


@pytest.mark.parametrize(("told", "state"), [(0, CheckState.REVEALED), (1, CheckState.GONE), (2, CheckState.REVEALED)])
def test_nobody_looked_at_other_imprints_than_there_are(told: int, state: CheckState) -> None:
    bench = Bench()
    one, other = bench.validator(2), bench.validator(3)
    case_id = bench.checking(bench.opener(1), imprints=2)
    bench.check(one, says(imprints=told))
    bench.check(other)
    bench.reveal(one)
    assert bench.case(case_id).checks[0].state is state


def test_a_verdict_on_no_imprints_is_written_as_before_there_were_any() -> None:
    bench = Bench()
    one = bench.validator(2)
    bench.checking(bench.opener(1))
    (offer,) = bench.pull(one)
    assert b"imprints" not in msgspec.json.encode(one.verdict(offer))
    assert b"imprints" in msgspec.json.encode(one.verdict(offer, imprints=1))
