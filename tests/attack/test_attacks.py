"""Some attacks of every kind, by dishonest nodes with a real engine and a tiny model."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.core.checks.claims import well_formed
from agent.core.checks.draw import uniforms
from agent.core.checks.sampling import drawn
from tests.attack import field, page
from tests.attack.field import Field
from tests.attack.forger import fitted
from tests.attack.matrix import ROWS
from tests.attack.outcome import NOTHING, Counts, Figures, interval, together
from tests.attack.rows import NO_CLAIM
from tests.core.checks.engine import SAMPLER, generate
from tests.sandboxes import require_sandbox
from tests.tiny_model import write_tiny_model

FEW = {
    **{"honest-exact": 2, "honest-four-slots": 4, "s-seed": 1, "s-edit": 1, "prompt-told": 1},
    **{"truncation": 2, "tamper": 10, "replay": 2, "fuzz": 3},
}
"""Row → runs. F and T are not among them: limits are those of real models (docs/attacks.md)."""


@pytest.fixture
async def tiny(tmp_path: Path) -> AsyncIterator[Field]:
    await asyncio.to_thread(require_sandbox)
    weights = write_tiny_model(tmp_path / "tiny.gguf")
    async with field.opened(weights, "tiny", None, tmp_path / "made") as opened:
        yield opened


async def test_honest_nodes_pass_and_dishonest_ones_are_caught(tiny: Field):
    made = {name: await ROWS[name].attack(tiny, runs) for name, runs in FEW.items()}
    missed = {name: counts for name, counts in made.items() if ROWS[name].wanted.met(counts) is not True}
    assert not missed
    assert made["tamper"].refused == 10
    # Where the tiny model's first token is half a character that may be another half, nothing can be repeated.
    assert (await ROWS["x-q8_0"].attack(tiny, 4)).failed > 1
    rendered = page.render(made, tiny.limits)
    assert all(f"`{name}`" in rendered for name in FEW)
    assert f"Limits of a chunk ({tiny.limits.version}): F " in rendered


def test_a_forger_bends_figures_until_the_seed_draws_any_token():
    chance = random.Random(5)
    for position, number in zip(
        generate(chance, SAMPLER, tokens=20, vocabulary=80, n_probs=40), uniforms(SAMPLER.seed), strict=False
    ):
        wanted = position._replace(token=chance.choice([*position.ids, 99]))
        forged = fitted(wanted, SAMPLER, number)
        assert forged.token == wanted.token
        assert well_formed(forged)
        assert drawn(forged, SAMPLER, number)


def test_an_interval_holds_what_was_seen_and_says_little_of_few_runs():
    assert interval(0, 0) == (0.0, 1.0)
    assert interval(10, 10) == pytest.approx((0.722, 1.0), abs=1e-3)
    assert interval(200, 200) == pytest.approx((0.981, 1.0), abs=1e-3)
    assert interval(49, 50) == pytest.approx((0.895, 0.996), abs=1e-3)


def test_parts_of_a_row_make_one():
    part = Counts(2, 1, 1, 0, 0, (("F", 1),), Figures(chunks=4, closeness=0.2))
    other = Counts(3, 0, 0, 3, 0, (("F", 2), ("S", 3)), Figures(chunks=6, closeness=0.9))
    whole = together(part, other)
    assert whole == Counts(5, 1, 1, 3, 0, (("F", 3), ("S", 3)), Figures(chunks=10, closeness=0.9))
    assert together(NOTHING, part) == part


def test_a_claim_is_met_by_what_was_counted():
    honest, cheat = ROWS["honest-exact"].wanted, ROWS["f-q4_0"].wanted
    assert [honest.met(Counts(200, 199, 1, 0, 0)), honest.met(Counts(200, 199, 0, 1, 0))] == [True, False]
    assert [cheat.met(Counts(50, 1, 49, 0, 0)), cheat.met(Counts(50, 2, 0, 48, 0))] == [True, False]
    assert NO_CLAIM.met(Counts(50, 50, 0, 0, 0)) is None
