"""S: honest claims are never flagged, whatever the sampler; a cheat's are."""

from __future__ import annotations

import math
import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.checks.claims import Position
from agent.core.checks.draw import uniforms
from agent.core.checks.sampling import check_sampling, distance
from tests.core.checks.engine import SAMPLER, generate

SAMPLERS = st.builds(
    SAMPLER._replace,
    seed=st.integers(0, 0xFFFFFFFE),
    temperature=st.sampled_from((0.0, 0.1, 0.8, 1.0, 1.5, 2.0)),
    top_k=st.sampled_from((-1, 0, 1, 2, 20, 40, 60)),
    top_p=st.sampled_from((0.0, 0.3, 0.95, 1.0)),
    min_p=st.sampled_from((0.0, 0.05, 0.5, 1.0)),
)


def test_the_random_numbers_are_those_of_the_c_plus_plus_standard():
    # [rand.predef]: the 10,000th word of mt19937 with its default seed is 4123659995.
    numbers = list(islice(uniforms(5489), 5000))
    assert numbers[0] == (3499211612 + 581869302 * 2.0**32) / 2.0**64
    assert math.floor(numbers[-1] * 2.0**32) == 4123659995


@settings(max_examples=150)
@given(SAMPLERS, st.integers(0, 1 << 30))
def test_honest_draws_are_never_flagged_whatever_the_sampler(sampler, made_by: int):
    made = generate(random.Random(made_by), sampler, tokens=20, vocabulary=80, n_probs=40)
    found = check_sampling(made, sampler, 40)
    assert found.passed
    assert found.checked + found.uncovered == 20
    if sampler.greedy or 0 < sampler.top_k <= 40:
        assert found.uncovered == 0


HONEST = generate(random.Random(3), SAMPLER, tokens=200, vocabulary=80, n_probs=40)


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ({"seed": 8}, 100),
        ({"temperature": 1.2}, 5),
        ({"top_k": 5}, 10),
        ({"top_p": 0.5}, 10),
        ({"min_p": 0.3}, 10),
        ({"temperature": 0.0}, 100),
    ],
    ids=str,
)
def test_another_sampler_than_promised_is_found(change: dict, least: int):
    assert check_sampling(HONEST, SAMPLER, 40).passed
    found = check_sampling(HONEST, SAMPLER._replace(**change), 40)
    assert len(found.mismatches) >= least


def test_greedy_claims_hold_only_for_the_likeliest_token():
    greedy = SAMPLER._replace(temperature=0.0)
    made = generate(random.Random(5), greedy, tokens=20, vocabulary=80, n_probs=40)
    assert check_sampling(made, greedy, 40).checked == 20
    made[7] = made[7]._replace(token=made[7].ids[1])
    assert check_sampling(made, greedy, 40).mismatches == (7,)
    made[7] = made[7]._replace(logprobs=(made[7].logprobs[1], *made[7].logprobs[1:]))
    assert check_sampling(made, greedy, 40).passed  # a tie: greedy may take either


@given(st.integers(0, 199), st.integers(0, 39))
def test_one_exchanged_token_is_found_unless_the_draw_is_on_the_border(at: int, rank: int):
    made = list(HONEST)
    made[at] = made[at]._replace(token=made[at].ids[rank])
    found = check_sampling(made, SAMPLER, 40)
    if made[at].token == HONEST[at].token:
        assert found.passed
    else:
        number = next(islice(uniforms(SAMPLER.seed), at, None))
        off = distance(made[at], made[at].logprobs, SAMPLER, number)
        assert off is not None
        assert (found.mismatches == (at,)) == (off > 2e-4) or off < 2e-4


def test_a_withheld_token_takes_its_draw_with_it():
    made = [Position(None) if at in (3, 4) else one for at, one in enumerate(HONEST)]
    found = check_sampling(made, SAMPLER, 40)
    assert (found.passed, found.withheld, found.checked) == (True, 2, 198)
    assert not check_sampling([one for one in made if one.token is not None], SAMPLER, 40).passed


def test_without_candidates_there_is_nothing_to_replay():
    assert check_sampling([Position(1), Position(2)], SAMPLER, 0).uncovered == 2


def test_a_token_outside_the_list_is_no_draw():
    made = [HONEST[0]._replace(token=999), *HONEST[1:]]
    assert check_sampling(made, SAMPLER, 40).mismatches == (0,)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one._replace(ids=one.ids[:-1], logprobs=one.logprobs[:-1]),
        lambda one: one._replace(ids=(), logprobs=()),
        lambda one: one._replace(ids=(one.ids[1], *one.ids[1:])),
        lambda one: one._replace(logprobs=one.logprobs[::-1]),
        lambda one: one._replace(logprobs=(0.0,) * 40),
        lambda one: one._replace(logprobs=(math.inf, *one.logprobs[1:])),
        lambda one: one._replace(logprobs=(800.0, *one.logprobs[1:])),
    ],
    ids=["too few", "none", "twice", "unsorted", "more than all", "infinite", "absurd"],
)
def test_candidates_that_are_no_probabilities_are_told_as_such(spoil):
    found = check_sampling([*HONEST[:5], spoil(HONEST[5]), *HONEST[6:]], SAMPLER, 40)
    assert found.malformed == (5,)
    assert not found.passed


def test_a_draw_that_needs_unlisted_candidates_is_counted_not_guessed():
    flat = Position(3, tuple(range(40)), (math.log(1 / 80),) * 40)
    for sampler in (SAMPLER._replace(top_k=0), SAMPLER._replace(top_k=60), SAMPLER._replace(top_k=0, top_p=1.0)):
        found = check_sampling([flat], sampler, 40)
        assert (found.checked, found.uncovered, found.passed) == (0, 1, True)


def test_impossible_tokens_are_listed_with_minus_infinity():
    lonely = Position(1, (1, 2, 3), (0.0, -3.4e38, -math.inf))
    assert check_sampling([lonely], SAMPLER._replace(top_k=3), 3).passed
    assert not check_sampling([lonely._replace(token=3)], SAMPLER._replace(top_k=3), 3).passed
