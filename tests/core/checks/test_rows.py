"""Rows of numbers: the same bits, or nearly the same direction."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.checks.rows import check_rows

NUMBERS = st.floats(-100, 100, width=32).filter(lambda one: abs(one) > 1e-3)


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=9), max_size=5))
def test_equal_rows_are_equal_to_the_bit_and_parallel(rows: list[list[float]]):
    found = check_rows(rows, rows)
    assert (found.compared, found.equal) == (len(rows), len(rows))
    assert found.least == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("claimed", "own", "least"),
    [
        ([(1.0, 0.0)], [(0.0, 1.0)], 0.0),
        ([(1.0, 0.0)], [(-2.0, 0.0)], -1.0),
        ([(3.0, 4.0)], [(6.0, 8.0)], 1.0),
        ([(1.0, 0.0), (1.0, 0.0)], [(1.0, 0.0)], 0.0),
        ([(1.0, 0.0)], [(1.0, 0.0, 0.0)], 0.0),
        ([(0.0, 0.0)], [(1.0, 0.0)], 0.0),
        ([(math.inf, 0.0)], [(1.0, 0.0)], 0.0),
        ([], [], 1.0),
    ],
)
def test_what_is_not_parallel_is_told(claimed: list, own: list, least: float):
    assert check_rows(claimed, own).least == pytest.approx(least)
