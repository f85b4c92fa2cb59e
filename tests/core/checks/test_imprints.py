"""TOPLOC as a check: what is committed to against one's own hidden states, and what follows."""

from __future__ import annotations

import pytest

from agent.core.checks.imprints import Imprinted, check_imprints, imprinted_ids, read_imprints
from agent.core.checks.verdict import Metrics, Thresholds, Verdict, judge
from agent.core.proof.leaves import Leaf
from agent.core.proof.opening import AnyLeaf, BareLeaf
from agent.core.proof.toploc import IMPRINT_BYTES, Distance, imprint, peaks
from agent.core.proof.transcript import NO_PREVIOUS, LeafKind
from tests.core.proof.test_toploc import as_floats
from tests.golden.toploc.states import made_up

OWN = [peaks([as_floats(made_up(seed, 640))]) for seed in (1, 2)]
GOOD = tuple(map(imprint, OWN))
NULL = bytes(IMPRINT_BYTES)
LIMITS = Thresholds()


def leaves(*imprints: bytes) -> tuple[AnyLeaf, ...]:
    ids = tuple(range(32))
    return (
        Leaf(kind=LeafKind.TOKENS, index=0, previous=NO_PREVIOUS, ids=ids),
        BareLeaf(kind=LeafKind.TOKENS, index=1, hash=NO_PREVIOUS, count=2, ids=(40, 41)),
        Leaf(kind=LeafKind.TEXT, index=2, previous=NO_PREVIOUS, texts=(b"",)),
        Leaf(kind=LeafKind.TOKENS, index=3, previous=NO_PREVIOUS, ids=(50,)),
        Leaf(kind=LeafKind.END, index=4, previous=NO_PREVIOUS, entries=36, imprints=imprints),
    )


def test_tokens_behind_one_that_is_not_known_have_no_imprint():
    assert imprinted_ids(leaves()) == (*range(32), 40, 41)


def test_without_imprints_nothing_is_said():
    assert read_imprints(leaves()) is None
    assert judge(Metrics(), LIMITS).verdict is Verdict.PASS


def test_ones_own_states_are_at_no_distance():
    found = check_imprints(leaves(*GOOD), OWN)
    assert found == Imprinted(2, (), (Distance(0, 0.0, 0.0),) * 2, (32, 2))
    assert judge(Metrics(imprints=found), LIMITS).verdict is Verdict.PASS


def test_other_states_are_a_doubt_each_and_two_fail():
    assert judge(Metrics(imprints=check_imprints(leaves(*GOOD), OWN[::-1])), LIMITS).verdict is Verdict.FAIL
    one = judge(Metrics(imprints=check_imprints(leaves(*GOOD), [OWN[0], OWN[0]])), LIMITS)
    assert one.verdict is Verdict.SUSPECT
    assert one.reasons[0].startswith("imprint 1: ")


@pytest.mark.parametrize("null", [NULL, b"\xff\xd9" + NULL[2:], GOOD[0][:2] + b"\xff" * 256])
def test_a_null_imprint_fails_for_certain_and_without_a_model(null):
    found = read_imprints(leaves(GOOD[0], null))
    assert found is not None
    assert (found.committed, len(found.faults)) == (2, 1)
    judged = judge(Metrics(imprints=found), LIMITS)
    assert judged.verdict is Verdict.FAIL
    assert judged.reasons[0].startswith("leaf 1: this imprint is")


@pytest.mark.parametrize(
    ("distance", "tokens", "verdict"),
    [
        (Distance(LIMITS.exponents, LIMITS.mantissas, 0), 32, Verdict.PASS),
        (Distance(LIMITS.exponents + 1, 0, 0), 32, Verdict.SUSPECT),
        (Distance(0, LIMITS.mantissas + 0.1, 0), 32, Verdict.SUSPECT),
        (Distance(2 * LIMITS.exponents, 2 * LIMITS.mantissas, 0), 8, Verdict.PASS),
        (Distance(0, 2 * LIMITS.mantissas + 0.1, 0), 8, Verdict.SUSPECT),
        (Distance(128, float("inf"), float("inf")), 1, Verdict.SUSPECT),
    ],
)
def test_limits_are_what_an_imprint_may_be_off_at_most_and_wider_for_few_tokens(distance, tokens, verdict):
    assert judge(Metrics(imprints=Imprinted(1, (), (distance,), (tokens,))), LIMITS).verdict is verdict


def test_one_sided_counts_are_no_comparison():
    with pytest.raises(ValueError, match="zip"):
        check_imprints(leaves(*GOOD), OWN[:1])
