"""From metrics to a verdict."""

from __future__ import annotations

import pytest

from agent.core.checks.ending import Ending
from agent.core.checks.forward import Closeness, Exactness, Plausibility
from agent.core.checks.imprints import Imprinted
from agent.core.checks.rows import Rows
from agent.core.checks.sampling import Sampled
from agent.core.checks.verdict import Metrics, Replayed, Thresholds, Verdict, is_certain, judge, long_enough
from agent.core.proof.toploc import Distance

LIMITS = Thresholds()


def chunk(
    leaf: int, mean: float = 0.05, *, tokens: int = 32, far: int = 0, unlisted: int = 0, raised: float = 0.3
) -> Replayed:
    close = Closeness(compared=10 * tokens, mean=mean, worst=3 * mean, overlap=1.0)
    return Replayed(leaf, close, Plausibility(tokens, 0.0, far, unlisted, 0.5, raised))


def test_nothing_against_it_is_a_pass():
    found = Metrics(Sampled(40), Ending(), True, (chunk(0), chunk(1)), Exactness(40, 40))
    assert judge(found, LIMITS) == (Verdict.PASS, ())
    assert judge(Metrics(), LIMITS).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Metrics(sampled=Sampled(39, mismatches=(17,))), "the first is token 17"),
        (Metrics(sampled=Sampled(39, malformed=(3,))), "lack the candidates"),
        (Metrics(ending=Ending(("it lied",))), "it lied"),
        (Metrics(prompt=False), "prompt"),
        (Metrics(exact=Exactness(40, 39)), "1 of 40 tokens differ"),
    ],
)
def test_what_is_certain_fails_at_once(found: Metrics, words: str):
    judged = judge(found, LIMITS)
    assert judged.verdict is Verdict.FAIL
    assert words in judged.reasons[0]
    assert is_certain(found)


@pytest.mark.parametrize("bad", [{"mean": 0.31}, {"far": 3}, {"unlisted": 3}, {"raised": 3.1}])
def test_one_chunk_over_a_limit_is_a_suspicion_and_two_are_a_failure(bad: dict):
    assert judge(Metrics(chunks=(chunk(0), chunk(1, **bad), chunk(2))), LIMITS).verdict is Verdict.SUSPECT
    assert judge(Metrics(chunks=(chunk(0, **bad), chunk(1, **bad))), LIMITS).verdict is Verdict.FAIL


def test_doubts_of_the_end_have_one_cause_and_are_one_suspicion():
    odd = Ending(doubts=("20 tokens are withheld one after the other", "9 at the end are not shown"))
    judged = judge(Metrics(ending=odd), LIMITS)
    assert judged == (Verdict.SUSPECT, ("; ".join(odd.doubts),))
    assert judge(Metrics(ending=odd, chunks=(chunk(0, 0.31),)), LIMITS).verdict is Verdict.FAIL


def test_what_fails_by_statistics_alone_is_not_certain():
    off = Distance(exponents=60, mean=20.0, median=20.0)
    for found in (
        Metrics(chunks=(chunk(0, 0.31), chunk(1, 0.31))),
        Metrics(rows=Rows(2, 0, (0.9, 0.9))),
        Metrics(imprints=Imprinted(2, (), (off, off), (32, 32))),
    ):
        assert judge(found, LIMITS).verdict is Verdict.FAIL
        assert not is_certain(found)


def test_rows_must_be_nearly_parallel_and_equal_in_the_same_class():
    near, off = Rows(2, 0, (0.9999, 0.9998)), Rows(2, 1, (1.0, 0.98))
    assert judge(Metrics(rows=near), LIMITS).verdict is Verdict.PASS
    assert judge(Metrics(rows=near, same_class=True), LIMITS).verdict is Verdict.FAIL
    assert judge(Metrics(rows=off), LIMITS) == (
        Verdict.SUSPECT,
        ("row 1 is only 0.9800 parallel, 0.995 at least is wanted",),
    )
    assert judge(Metrics(rows=Rows(2, 0, (0.9, 0.9))), LIMITS).verdict is Verdict.FAIL


def test_too_few_candidates_show_nothing_and_are_suspect():
    judged = judge(Metrics(sampled=Sampled(0, uncovered=40), candidates=5), LIMITS)
    assert judged == (Verdict.SUSPECT, ("only 5 candidates a token are committed to, 20 are wanted",))
    assert judge(Metrics(candidates=20), LIMITS).verdict is Verdict.PASS


def test_short_chunks_are_judged_with_their_neighbours():
    shorts = [chunk(at, 0.4 if at % 2 else 0.0, tokens=4) for at in range(10)]
    joined = long_enough(shorts)
    assert [one.plausible.compared for one in joined] == [16, 24]
    assert joined[0].close.mean == pytest.approx(0.2)
    assert judge(Metrics(chunks=tuple(shorts)), LIMITS).verdict is Verdict.PASS
    [tail] = long_enough([chunk(0), chunk(1, tokens=3)])
    assert tail.plausible.compared == 35


def test_a_few_tokens_alone_may_be_further_off_than_many():
    assert judge(Metrics(chunks=(chunk(0, 0.5, tokens=8),)), LIMITS).verdict is Verdict.PASS
    assert judge(Metrics(chunks=(chunk(0, 0.7, tokens=8),)), LIMITS).verdict is Verdict.SUSPECT
    assert judge(Metrics(chunks=(chunk(0, 0.95, tokens=1),)), LIMITS).verdict is Verdict.SUSPECT
