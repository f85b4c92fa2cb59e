"""F, T and X over one chunk: what noise moves, what another model moves, and what only equal bits survive."""

from __future__ import annotations

import math
import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.checks.claims import Position
from agent.core.checks.draw import uniforms
from agent.core.checks.forward import TOP, check_closeness, check_exactness, check_plausibility, figures_sha256
from agent.core.checks.sampling import check_sampling
from tests.core.checks.engine import SAMPLER, choose, f32, listed, some_logits

TOKENS = 32
NUMBERS = list(islice(uniforms(SAMPLER.seed), TOKENS))
GREEDY = SAMPLER._replace(temperature=0.0)


def replayed(noise: float, *, seed: int = 3, sampler=SAMPLER, cheat: float = 0.0) -> tuple[list[Position], ...]:
    """Claims by a model that is `cheat` off, and a verifier's own view of the same tokens that is `noise` off."""
    chance, claimed, own = random.Random(seed), [], []
    for number in NUMBERS:
        logits = some_logits(chance, 80)
        theirs = [one + chance.gauss(0.0, cheat) for one in logits]
        token = choose(theirs, sampler, number)
        claimed.append(listed(theirs, 40, token))
        own.append(listed([one + chance.gauss(0.0, noise) for one in logits], 40, token))
    return claimed, own


def test_one_and_the_same_computation_differs_in_nothing():
    claimed, own = replayed(0.0)
    close = check_closeness(claimed, own)
    assert (close.mean, close.worst, close.overlap, close.compared) == (0.0, 0.0, 1.0, TOKENS * TOP)
    assert check_exactness(claimed, own) == (TOKENS, TOKENS)
    plausible = check_plausibility(claimed, own, SAMPLER, NUMBERS)
    assert (plausible.mean, plausible.far, plausible.unlisted) == (0.0, 0, 0)


@settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.sampled_from((SAMPLER, GREEDY)))
def test_noise_stays_below_and_another_model_above(seed: int, sampler):
    claimed, own = replayed(0.03, seed=seed, sampler=sampler)
    assert check_closeness(claimed, own).mean < 0.1
    assert check_plausibility(claimed, own, sampler, NUMBERS).far <= 2
    assert check_exactness(claimed, own).equal == 0
    claimed, own = replayed(0.03, seed=seed, sampler=sampler, cheat=0.8)
    assert check_closeness(claimed, own).mean > 0.3
    assert check_closeness(claimed, own).overlap < 0.95


def test_true_log_probabilities_beside_tokens_of_another_model_pass_f_but_not_t():
    """Decode cheaply, then prefill the true model for the claims."""
    chance, claimed, own = random.Random(5), [], []
    for number in NUMBERS:
        logits = some_logits(chance, 80)
        token = choose([one + chance.gauss(0.0, 1.0) for one in logits], SAMPLER, number)
        claimed.append(listed(logits, 40, token))
        own.append(listed([one + chance.gauss(0.0, 0.02) for one in logits], 40, token))
    assert check_closeness(claimed, own).mean < 0.1
    assert check_plausibility(claimed, own, SAMPLER, NUMBERS).far >= 5


def test_one_bit_of_one_log_probability_is_not_exact():
    claimed, own = replayed(0.0)
    claimed[9] = claimed[9]._replace(logprobs=(*claimed[9].logprobs[:-1], f32(claimed[9].logprobs[-1] - 1e-6)))
    assert check_exactness(claimed, own) == (TOKENS, TOKENS - 1)
    own[3] = own[3]._replace(ids=own[3].ids[::-1])
    assert check_exactness(claimed, own) == (TOKENS, TOKENS - 2)


def test_figures_have_one_digest_to_the_bit():
    claimed, own = replayed(0.0)
    assert figures_sha256(claimed) == figures_sha256(own)
    others = [
        claimed[:-1],
        [*claimed[:-1], Position(None)],
        [claimed[0]._replace(token=None), *claimed[1:]],
        [claimed[0]._replace(logprobs=(f32(claimed[0].logprobs[0] + 1e-3), *claimed[0].logprobs[1:])), *claimed[1:]],
    ]
    assert len({figures_sha256(one) for one in [claimed, *others]}) == 5


def test_a_candidate_that_the_verifier_does_not_list_counts_as_the_gap_to_its_list():
    claim = Position(1, (1, 9), (-0.1, -0.5))
    own = Position(1, (1, 2), (-0.1, -3.0))
    close = check_closeness([claim], [own])
    assert (close.worst, close.overlap) == (2.5, 0.5)


def test_a_token_that_the_verifier_does_not_list_is_far_off():
    claim, own = Position(9, (9, 1), (-0.1, -0.5)), Position(9, (1, 2), (-0.1, -3.0))
    for sampler in (SAMPLER._replace(top_k=2), GREEDY):
        plausible = check_plausibility([claim], [own], sampler, [0.5])
        assert (plausible.unlisted, plausible.far, plausible.mean_rank) == (1, 1, 2.0)


def test_a_token_that_is_claimed_to_be_likelier_than_it_is_shows_by_how_much():
    claim, own = Position(2, (2, 1), (-0.5, -1.0)), Position(2, (1, 2), (-0.2, -6.5))
    assert check_plausibility([claim, own], [own, own], SAMPLER, NUMBERS).raised == 6.0
    unlisted = Position(2, (1, 3), (-0.2, -4.0))
    assert check_plausibility([claim], [unlisted], SAMPLER, NUMBERS).raised == 3.5
    assert check_plausibility([own], [claim], SAMPLER, NUMBERS).raised == 0.0


@pytest.mark.parametrize("nonsense", [math.inf, 700.0, 3.4e38])
def test_numbers_that_are_no_probabilities_draw_nothing_and_end_nothing(nonsense: float):
    claim, own = Position(1, (1, 9), (nonsense, -0.5)), Position(1, (1, 9), (-0.1, -3.0))
    assert check_plausibility([claim], [own], SAMPLER, [0.5]).far == 1
    assert check_closeness([claim], [own]).mean > 1


def test_withheld_tokens_are_left_out():
    claimed, own = replayed(0.0)
    claimed[4] = Position(None)
    assert check_closeness(claimed, own).compared == (TOKENS - 1) * TOP
    assert check_plausibility(claimed, own, SAMPLER, NUMBERS).compared == TOKENS - 1
    nothing = [Position(None)]
    assert check_closeness(nothing, nothing).compared == 0
    assert check_plausibility(nothing, nothing, SAMPLER, NUMBERS[:1]).compared == 0


def test_chunks_of_different_length_are_not_compared():
    claimed, own = replayed(0.0)
    with pytest.raises(ValueError, match="shorter"):
        check_closeness(claimed, own[:-1])


def _alone(own: Position, rank: int, guess: float) -> Position:
    """The token at `rank` beside candidates that no model has: so the seed draws it, whichever it is."""
    token = own.ids[rank]
    return Position(token, (token, *range(10**6, 10**6 + 39)), (guess, *[f32(-14.0)] * 39))


def test_a_token_whose_rivals_are_left_out_is_neither_close_nor_plausible():
    """S holds, and what is claimed of the token itself is true: nothing but what is missing tells of it."""
    _, own = replayed(0.0)
    claimed = [_alone(one, 1 + at % 5, one.logprobs[1 + at % 5]) for at, one in enumerate(own)]
    assert check_sampling(claimed, SAMPLER, 40).checked == TOKENS
    assert check_sampling(claimed, SAMPLER, 40).passed
    assert check_closeness(claimed, own).mean > 1
    plausible = check_plausibility(claimed, own, SAMPLER, NUMBERS)
    assert (plausible.far, plausible.unlisted, plausible.raised) == (TOKENS, 0, 0.0)


def test_one_rival_that_is_left_out_puts_its_token_out_of_place():
    """Where the others are true, the mean difference hardly moves."""
    own = Position(2, (1, 2, 3), (math.log(0.6), math.log(0.3), math.log(0.1)))
    claim = Position(2, (2, 3), own.logprobs[1:])
    two = SAMPLER._replace(top_k=2, top_p=1.0, temperature=1.0)
    assert check_plausibility([claim], [own], two, [0.5]).far == 1
    assert check_plausibility([own], [own], two, [0.8]).far == 0


def test_lists_that_end_otherwise_are_no_doubt():
    claim = Position(1, (1, 2, 3), (-0.1, -3.0, -5.0))
    own = Position(1, (1, 2, 4), (-0.1, -3.0, -4.9))
    three = SAMPLER._replace(top_k=3)
    assert check_plausibility([claim], [own], three, [0.5]) == (1, pytest.approx(0.0, abs=0.001), 0, 0, 0.0, 0.0)


@pytest.mark.parametrize(("token", "far"), [(1, 0), (5, 1), (99, 1)], ids=["the drawn one", "another", "one unlisted"])
def test_a_list_made_too_flat_to_tell_the_draw_is_told_by_ones_own(token: int, far: int):
    """A node says how many candidates it lists: with fewer than top_k the last ones decide whether top_p closes."""
    ten = [math.log(0.08), *[math.log(0.005)] * 8]
    own = Position(1, tuple(range(1, 21)), (math.log(0.86), *ten, *[math.log(1e-4)] * 10))
    claim = Position(token, own.ids, (math.log(0.78), *ten, *[math.log(0.0049)] * 10))
    assert check_sampling([own], SAMPLER, 20).uncovered == 0
    assert check_sampling([claim], SAMPLER, 20).uncovered == 1
    assert check_closeness([claim], [own]).mean < 0.02
    assert check_plausibility([claim], [own], SAMPLER, [0.5]).far == far
    assert check_plausibility([claim], [claim], SAMPLER, [0.5]).far == 0  # neither list tells
