"""The rate of challenges: above the bound honest work pays more than cheating, below it does not."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.proof.posp import Stakes, rate_micros

MONEY = st.floats(0.01, 1e6)
SHARE = st.floats(0, 1)
STAKES = st.builds(Stakes, MONEY, MONEY, MONEY, SHARE, SHARE, st.floats(0, 0.2))
DETERRED = st.builds(Stakes, MONEY, MONEY, MONEY, st.floats(0, 0.9), st.floats(0.3, 1), st.floats(0, 0.02))
"""Some stake is enough."""


@pytest.mark.parametrize(("stake", "percent"), [(10, 5.1), (50, 1.1)])
def test_the_bound_is_that_of_the_paper(stake: float, percent: float) -> None:
    """C = 0.5, R = 1, r = 0.1."""
    assert round(100 * Stakes(stake, 1, 0.5).bound, 1) == percent
    assert round(rate_micros(Stakes(stake, 1, 0.5)) / 1e4, 1) == percent


@given(DETERRED)
def test_honest_work_pays_more_just_above_the_bound_and_less_below(stakes: Stakes) -> None:
    for rate, pays in ((stakes.bound * 1.001, True), (stakes.bound * 0.999, False)):
        assert (stakes.honest(rate) > stakes.dishonest(rate)) is pays


@given(STAKES)
def test_the_rate_is_the_least_that_is_over_the_bound(stakes: Stakes) -> None:
    rate = rate_micros(stakes)
    assert 0 < rate <= 1_000_000
    if stakes.enough:
        assert rate / 1e6 > stakes.bound
        assert (rate - 1) / 1e6 <= stakes.bound
    else:
        assert rate == 1_000_000


@given(STAKES)
def test_poorer_checks_and_more_collusion_ask_for_more(stakes: Stakes) -> None:
    assert stakes._replace(detection=stakes.detection / 2).bound >= stakes.bound
    assert stakes._replace(colluding=(1 + stakes.colluding) / 2).bound >= stakes.bound
    assert stakes._replace(false_positives=stakes.false_positives + 0.01).bound >= stakes.bound
    assert stakes._replace(stake=stakes.stake * 2).bound <= stakes.bound


@given(DETERRED)
def test_a_stake_over_the_least_makes_some_rate_enough(stakes: Stakes) -> None:
    assert stakes._replace(stake=stakes.least_stake * 1.001 + 0.001).enough
    if stakes.least_stake > 0.01:
        assert not stakes._replace(stake=stakes.least_stake * 0.999).enough


def test_checks_that_hit_the_honest_as_often_deter_nobody() -> None:
    useless = Stakes(1e9, 1, 0.5, colluding=0.5, detection=0.2, false_positives=0.1)
    assert (useless.bound, useless.least_stake, useless.enough) == (inf, inf, False)
    assert Stakes(10, 1, 0.5, detection=0).fakes_until_caught(1) == inf
    assert rate_micros(useless) == 1_000_000


def test_what_one_mistake_in_a_thousand_costs_the_honest() -> None:
    stakes = Stakes(10, 1, 0.5, false_positives=0.001)
    assert stakes.false_alarms(0.1) == pytest.approx(0.0011)
    assert stakes.honest(0.1) == pytest.approx(0.4989)
    assert stakes.fakes_until_caught(0.1) == pytest.approx(1 / 0.09)
