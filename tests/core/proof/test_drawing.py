"""Challenges are drawn by chance alone: at the promised rate, evenly, and the same for everybody who looks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.proof.drawing import _below, _key, _words, drawn_leaves, is_drawn, leaves_until

GOLDEN = Path(__file__).parents[2] / "golden" / "proof" / "draws.json"
BEACON = hashlib.sha256(b"beacon").digest()
ROOT = hashlib.sha256(b"root").hexdigest()


def beacon(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "big")).digest()


def test_a_rate_of_one_draws_everything_and_of_none_nothing() -> None:
    assert all(is_drawn(beacon(number), ROOT, "t-1", 1_000_000) for number in range(200))
    assert not any(is_drawn(beacon(number), ROOT, "t-1", 0) for number in range(200))


@pytest.mark.parametrize("rate_micros", [50_000, 250_000, 900_000])
def test_as_many_are_drawn_as_the_rate_says(rate_micros: int) -> None:
    drawn = sum(is_drawn(beacon(number), ROOT, f"t-{number}", rate_micros) for number in range(4000))
    expected = 4000 * rate_micros / 1e6
    assert abs(drawn - expected) < 5 * (expected * (1 - rate_micros / 1e6)) ** 0.5


def test_every_part_of_what_is_drawn_from_changes_the_draw() -> None:
    def draw(number: int = 0, root: str = ROOT, task: str = "t-1", level: int = 0) -> tuple[int, ...]:
        return drawn_leaves(beacon(number), root, task, 1000, 12, level)[1:-1]

    other = hashlib.sha256(b"other").hexdigest()
    assert len({draw(), draw(number=1), draw(root=other), draw(task="t-2"), draw(level=1)[:10]}) == 5


@given(leaves=st.integers(1, 200), wanted=st.integers(1, 300), level=st.integers(0, 5))
def test_the_first_and_the_last_leaf_with_output_are_always_drawn(leaves: int, wanted: int, level: int) -> None:
    drawn = drawn_leaves(BEACON, ROOT, "t-1", leaves, wanted, level)
    assert list(drawn) == sorted(set(drawn))
    assert len(drawn) == min(max(wanted << level, min(leaves - 1, 2)), leaves - 1)
    assert not drawn or (drawn[0], drawn[-1]) == (0, leaves - 2)


@given(leaves=st.integers(1, 200), wanted=st.integers(1, 20), level=st.integers(0, 5))
def test_a_level_repeats_all_that_was_drawn_below_it(leaves: int, wanted: int, level: int) -> None:
    until = leaves_until(BEACON, ROOT, "t-1", leaves, wanted, level)
    drawn = [drawn_leaves(BEACON, ROOT, "t-1", leaves, wanted, below) for below in range(level + 1)]
    assert until == tuple(sorted({leaf for each in drawn for leaf in each}))


@given(leaves=st.integers(3, 60), wanted=st.integers(0, 60))
def test_taking_out_of_what_is_left_in_order_draws_the_same(leaves: int, wanted: int) -> None:
    """As docs/proof.md, Challenges, says it: the one at w mod c of those that are left."""
    words, left, expected = _words(_key(BEACON, ROOT), b"pos/v1/leaves\x00\x00t-1"), list(range(1, leaves - 2)), set()
    for _ in range(min(max(wanted - len({0, leaves - 2}), 0), len(left))):
        expected.add(left.pop(_below(len(left), words)))
    assert set(drawn_leaves(BEACON, ROOT, "t-1", leaves, wanted)) == {0, leaves - 2, *expected}


def test_how_many_leaves_a_node_claims_costs_whoever_draws_nothing() -> None:
    first, *between, last = drawn_leaves(BEACON, ROOT, "t-1", 1 << 53, 6)
    assert (first, last, len(between)) == (0, (1 << 53) - 2, 4)


def test_leaves_between_are_drawn_evenly() -> None:
    """Chi-squared over 18 leaves, 3 of them each time: 17 degrees of freedom, 50 is beyond one in 20,000."""
    drawn = Counter(leaf for number in range(3000) for leaf in drawn_leaves(beacon(number), ROOT, "t", 21, 5)[1:-1])
    expected = 3000 * 3 / 18
    assert set(drawn) == set(range(1, 19))
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 50


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda case: case["task"])
def test_draws_are_those_of_the_second_implementation(case: dict) -> None:
    """tests/golden/proof/make.py draws as docs/proof.md, Challenges, says."""
    drawn, root, task = bytes.fromhex(case["beacon"]), case["root"], case["task"]
    assert list(drawn_leaves(drawn, root, task, case["leaves"], case["wanted"], case["level"])) == case["drawn"]
    from_here = case["drawn_from_rate_micros"]
    assert is_drawn(drawn, root, task, from_here)
    assert not is_drawn(drawn, root, task, from_here - 1)


def test_golden_draws() -> None:
    assert drawn_leaves(BEACON, ROOT, "t-1", 34, 6) == (0, 5, 8, 16, 21, 32)
    assert [number for number in range(40) if is_drawn(beacon(number), ROOT, "t-1", 100_000)] == [3, 8, 21, 24, 25, 32]
