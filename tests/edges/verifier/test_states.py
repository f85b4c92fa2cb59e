"""TOPLOC with real engines: one that answers, one that tells hidden states, and a verifier with its own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.core.checks.imprints import read_imprints
from agent.core.checks.verdict import Metrics, Thresholds, Verdict, judge
from agent.core.errors import EngineError
from agent.core.proof.commitment import commit
from agent.core.proof.leaves import check_leaves
from agent.core.proof.toploc import TOP, Distance, distance, imprint
from agent.edges.engines.imprinted import ImprintedPool
from agent.edges.verifier.states import WithStates
from agent.ports import EnginePool
from agent.stages.recheck import with_model
from tests.edges.verifier import claiming
from tests.edges.verifier.claiming import Done
from tests.edges.verifier.test_validating import Validator, evidence
from tests.tiny_model import write_tiny_model

SAME = Distance(0, 0.0, 0.0)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It shows every token where the likeliest is taken."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "letters.gguf", letters_only=True)


async def said(pool: EnginePool) -> Done:
    """Three leaves, the last one short."""
    done = await claiming.done(pool, max_tokens=70, temperature_micros=0)
    check_leaves(done.transcript.leaves, commit(done.claim.header, done.transcript))
    return done


async def test_an_imprint_of_each_leaf_is_committed_to_and_a_verifier_finds_the_same(
    letters: Path, short_dir: Path, tmp_path: Path
) -> None:
    async with claiming.imprinted(letters, short_dir) as engines:
        done, plain = await said(engines.pool), (await said(engines.answers)).claim
        made, body = done.claim, await Validator(engines.pool).verdict(evidence(done))
        async with engines.pool.replayer() as replayer, engines.answers.replayer() as answers:
            found = (await with_model(made, replayer, chosen=(0,))).imprints
            unseen = (await with_model(made, answers, chosen=(0,))).imprints
            prompt = await replayer.prompt_ids(made.given)
            ids = [token for leaf in made.leaves[:-1] for token in leaf.ids]
            edited = await replayer.peaks((prompt[0], *prompt[2:]), ids)
            with pytest.raises(EngineError):  # more than it can read in one go
                await replayer.peaks(prompt, ids * 4)
        other = write_tiny_model(tmp_path / "other.gguf", seed=8, letters_only=True)
        async with (
            claiming.replayer(other, short_dir, states=True, context_tokens=256) as cheap,
            engines.answers.replayer() as answers,
        ):
            cheat = (await with_model(made, WithStates(answers, cheap), chosen=(0,))).imprints
    assert (body.verdict, body.exact) == ("pass", True), body
    assert [one["exponents"] for one in msgspec.json.decode(body.metrics)["toploc"]["distances"]] == [0, 0, 0]
    assert found is not None
    assert (found.committed, found.faults, found.distances) == (3, (), (SAME,) * 3)
    # What an engine without hidden states cannot tell is not told, and nothing is committed to without them.
    assert unseen == read_imprints(made.leaves)
    assert read_imprints(plain.leaves) is None
    # Other weights, and a token less in the prompt, are seen in every leaf.
    assert cheat is not None
    assert judge(Metrics(imprints=cheat), Thresholds()).verdict is Verdict.FAIL
    assert edited is not None
    end = made.leaves[-1]
    assert all(distance(one, own) != SAME for one, own in zip(end.imprints, edited, strict=True))
    assert [len(imprint(own)) for own in edited] == [2 + 2 * TOP] * 3


async def test_a_pool_takes_work_only_while_both_engines_are_ready(letters: Path, short_dir: Path) -> None:
    async with claiming.pool(letters, short_dir) as answers:
        (short_dir / "states").mkdir()
        settings = claiming.settings(letters, short_dir / "states", states=True)
        never = ImprintedPool(answers, claiming.made(settings, short_dir))
        assert answers.facts.ready
        assert (never.facts.ready, never.facts.detail) == (False, "hidden states: the engine has not been started")
        with pytest.raises(EngineError, match="not ready"):
            async with never.replayer():
                raise AssertionError
