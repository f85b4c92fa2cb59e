"""What noise could make a number draw: all of it is told, and what no noise could change is certain."""

from __future__ import annotations

import math
import random
from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.checks.claims import Position, Sampler
from agent.core.checks.draw import uniforms
from agent.core.checks.reach import certain_draw, possible_draws
from tests.core.checks.engine import SAMPLER, choose, f32, listed, some_logits
from tests.core.checks.test_sampling import SAMPLERS


def test_a_draw_is_certain_only_far_from_every_border():
    three = Position(None, (5, 6, 7), (math.log(0.5), math.log(0.3), math.log(0.2)))
    plain = SAMPLER._replace(temperature=1.0, top_k=3, top_p=1.0)
    drawn = [certain_draw(three, plain, number) for number in (0.0, 0.3, 0.46, 0.49, 0.51, 0.6, 0.79, 0.9, 1.0)]
    assert drawn == [5, 5, None, None, None, 6, None, 7, 7]
    assert certain_draw(three, plain._replace(temperature=0.0), 0.9) == 5
    tie = three._replace(logprobs=(-0.7, -0.75, -3.0))
    assert certain_draw(tie, plain._replace(temperature=0.0), 0.9) is None
    assert certain_draw(three, plain._replace(top_k=0), 0.3) is None


def test_what_noise_may_draw_is_all_that_lies_near():
    three = Position(None, (5, 6, 7), (math.log(0.6), math.log(0.3), math.log(0.1)))
    plain = SAMPLER._replace(temperature=1.0, top_k=3, top_p=1.0)
    assert [possible_draws(three, plain, number) for number in (0.3, 0.55, 0.65, 0.85, 0.97)] == [
        *((5,), (5, 6), (6, 5), (6, 7), (7,)),
    ]
    greedy = plain._replace(temperature=0.0)
    assert possible_draws(three, greedy, 0.9) == (5,)
    assert possible_draws(three._replace(logprobs=(-0.7, -0.75, -3.0)), greedy, 0.9) == (5, 6)
    assert possible_draws(three, plain._replace(top_k=0), 0.3) == ()


def test_tokens_that_are_not_listed_are_thought_of_where_the_list_ends():
    flat = Position(None, tuple(range(40)), (math.log(1 / 80),) * 40)
    for sampler in (SAMPLER, SAMPLER._replace(temperature=0.0), SAMPLER._replace(top_p=0.01, min_keep=1)):
        assert possible_draws(flat, sampler, 0.5) == ()
        assert certain_draw(flat, sampler, 0.5) is None


@settings(max_examples=60)
@given(SAMPLERS, st.integers(0, 1 << 30))
def test_whatever_the_noise_what_was_drawn_is_possible_and_what_is_certain_was_drawn(sampler: Sampler, made_by: int):
    chance = random.Random(made_by)
    for number in islice(uniforms(sampler.seed), 5):
        logits = some_logits(chance, 80)
        for noise in (0.04, 0.2, 0.5):
            theirs = [f32(logit + chance.uniform(-noise, noise) / 2) for logit in logits]
            drawn = choose(theirs, sampler, number)
            own = listed(logits, 40, drawn)
            possible = possible_draws(own, sampler, number)
            assert drawn in possible or not possible
            if noise <= 0.2:
                assert certain_draw(own, sampler, number) in (drawn, None)
