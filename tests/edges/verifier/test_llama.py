"""Honest tasks of the real engine, checked on another real engine: they pass. Cheats do not."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.checks.claims import chunks, positions
from agent.core.checks.ending import Ending, hidden
from agent.core.checks.verdict import Thresholds, Verdict, judge
from agent.core.errors import EngineError
from agent.core.model import ChatInput, CompletionInput, EmbeddingInput, FinishReason, Message, TaskKind
from agent.core.proof.leaves import Leaf, read_leaf
from agent.core.proof.transcript import TranscriptBuilder
from agent.edges.engines.llama import LlamaPool
from agent.ports import Piece
from agent.stages.recheck import Claim, with_model, without_model
from tests.edges.verifier import claiming
from tests.edges.verifier.claiming import altered, claim
from tests.tiny_model import write_tiny_model

LIMITS = Thresholds()
BYTE, CONTROL, END = 3 + 0x80, 1, 2
"""Ids of the tiny model: a byte that is no character, the start and the end of a text."""
HOW: dict[str, dict[str, Any]] = {
    "as usual": {},
    "greedy": {"temperature_micros": 0},
    "cold": {"temperature_micros": 100_000},
    "hot, with a floor": {"temperature_micros": 1_500_000, "min_p_micros": 50_000},
    "more candidates than are listed": {"top_k": 100},
    "a completion": {"given": CompletionInput(prompt="once upon a time")},
    "a stop string": {"stop": ("e",)},
    "two stop strings": {"stop": ("zz", "o", "a")},
    "one token": {"max_tokens": 1},
}


async def plain_claim(pool: LlamaPool, **how: Any) -> Claim:
    """The first claim of a few seeds in which the engine showed every token: bytes are many in the tiny model."""
    for seed in itertools.count(1):
        made = await claim(pool, seed=seed, **{"max_tokens": 12, **how})
        if made.header.proof_kind == "tokens_f32":
            return made
    raise AssertionError


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
async def test_an_honest_task_passes_every_check(
    pool: LlamaPool, tiny_model: Path, short_dir: Path, how: dict[str, Any]
):
    made = await claim(pool, seed=3, **how)
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(made, replayer)
    assert judge(found, LIMITS) == (Verdict.PASS, ())
    assert found.prompt
    assert found.ending is not None
    assert found.sampled is not None
    assert found.ending.decided or found.sampled.withheld
    assert len(found.chunks) == len(chunks(made.leaves)) or found.unknown
    assert found.chunks


@pytest.mark.parametrize("token", [5000, 99_999_999, 0xFFFFFFFF])
async def test_a_token_that_the_model_does_not_have_is_a_failure_of_the_claim_not_of_the_engine(
    token: int, pool: LlamaPool, tiny_model: Path, short_dir: Path
):
    made = await plain_claim(pool)
    first, *rest = made.leaves
    assert isinstance(first, Leaf)
    lie = made._replace(leaves=(msgspec.structs.replace(first, ids=(*first.ids[:-1], token)), *rest))
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(lie, replayer)
        assert not found.vocabulary
        assert judge(found, LIMITS).verdict is Verdict.FAIL
        assert (await with_model(made, replayer)).vocabulary


async def test_a_text_that_ends_by_itself_shows_the_token_that_ended_it(
    pool: LlamaPool, tiny_model: Path, short_dir: Path
):
    # The tiny model hardly ever ends a text: a hot and wide sampler does it sooner or later.
    hot = {"temperature_micros": 5_000_000, "top_k": 0, "top_p_micros": 1_000_000, "max_tokens": 400}
    for seed in range(50):
        made = await claim(pool, seed=seed, **hot)
        if made.header.finish is FinishReason.STOP:
            break
    assert made.leaves[-2].ids[-1] == END
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        assert (await with_model(made, replayer, chosen=[999])).ending == Ending(decided=True)
        cut = altered(made, completion_tokens=made.header.completion_tokens - 1)
        short = cut._replace(leaves=_without_last(made.leaves))
        [*faults] = (await with_model(short, replayer, chosen=[999])).ending.faults
    assert "neither by an end-of-text token nor by a stop string" in faults[0]


def _without_last(leaves: tuple[Leaf, ...]) -> tuple[Leaf, ...]:
    *before, last, end = leaves
    fields = {"kind": last.kind, "index": last.index, "previous": last.previous}
    if len(last.ids) == 1:
        return (*before, end)
    return (*before, Leaf(**fields, ids=last.ids[:-1], candidates=last.candidates[:-1]), end)


async def test_on_one_slot_a_repetition_is_equal_to_the_bit(tiny_model: Path, short_dir: Path):
    async with claiming.pool(tiny_model, short_dir, slots=1) as pool:
        made = await plain_claim(pool)
    async with claiming.replayer(tiny_model, short_dir, slots=1, threads=2) as replayer:
        found = await with_model(made, replayer, exact=True)
    assert found.exact is not None
    assert found.exact.equal == found.exact.compared > 5
    assert judge(found, LIMITS).verdict is Verdict.PASS


async def test_two_verifiers_agree_to_the_bit_whatever_the_node_did(pool: LlamaPool, tiny_model: Path, short_dir: Path):
    made = await plain_claim(pool)
    digests = []
    for threads in (1, 2):
        async with claiming.replayer(tiny_model, short_dir, threads=threads) as replayer:
            digests.append([one.recomputed for one in (await with_model(made, replayer)).chunks])
    assert digests[0] == digests[1] != []


async def test_another_model_is_caught(pool: LlamaPool, short_dir: Path, tmp_path: Path):
    other = write_tiny_model(tmp_path / "other.gguf", seed=8)
    other.chmod(0o644)
    made = await plain_claim(pool)
    async with claiming.replayer(other, short_dir) as replayer:
        found = await with_model(made, replayer)
    assert found.sampled is not None
    assert found.sampled.passed  # S alone believes any model
    assert judge(found, LIMITS).verdict is Verdict.SUSPECT  # one chunk is a suspicion
    assert judge(found, Thresholds(repeated=1)).verdict is Verdict.FAIL


async def test_an_embedding_is_repeated_to_the_bit_and_another_models_is_caught(
    tiny_model: Path, short_dir: Path, tmp_path: Path
):
    other = write_tiny_model(tmp_path / "other.gguf", seed=8)
    other.chmod(0o644)
    how: dict[str, Any] = {"kinds": (TaskKind.EMBEDDING,), "args": ("--pooling", "mean"), "slots": 1}
    async with claiming.pool(tiny_model, short_dir, **how) as pool:
        made = await claim(pool, EmbeddingInput(texts=("one text", "another")))
    async with claiming.replayer(tiny_model, short_dir, **how) as replayer:
        found = await with_model(made, replayer, exact=True)
    assert found.rows is not None
    assert (found.rows.equal, found.rows.compared) == (2, 2)
    assert judge(found, LIMITS) == (Verdict.PASS, ())
    async with claiming.replayer(other, short_dir, **how) as replayer:
        assert judge(await with_model(made, replayer), LIMITS).verdict is Verdict.FAIL
        assert judge(await with_model(made, replayer, exact=True), LIMITS).verdict is Verdict.FAIL
    assert made.vectors is not None
    altered_rows = made._replace(vectors=((0.0, *made.vectors[0][1:]), made.vectors[1]))
    assert "delivered rows" in judge(without_model(altered_rows), LIMITS).reasons[0]


async def test_another_prompt_than_the_asked_one_is_caught(pool: LlamaPool, tiny_model: Path, short_dir: Path):
    made = await claim(pool, seed=3)
    asked = ChatInput(messages=(Message(role="user", content="Tell me a tale."),))
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(made._replace(given=asked), replayer)
    assert judge(found, LIMITS).verdict is Verdict.FAIL
    assert found.prompt is False


async def test_another_text_than_the_tokens_make_is_caught(pool: LlamaPool, tiny_model: Path, short_dir: Path):
    made = await plain_claim(pool)
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(made._replace(delivered="something else"), replayer)
    assert "not the text of the tokens" in judge(found, LIMITS).reasons[0]


async def test_another_seed_or_sampler_than_asked_is_caught_without_any_model(pool: LlamaPool):
    made = await claim(pool, seed=3, max_tokens=200)
    assert judge(without_model(made), LIMITS).verdict is Verdict.PASS
    for lie in ({"seed": 4}, {"temperature_micros": 0}, {"top_k": 5}, {"temperature_micros": 2_000_000}):
        assert judge(without_model(altered(made, **lie)), LIMITS).verdict is Verdict.FAIL


async def test_withheld_bytes_keep_their_draws(pool: LlamaPool, tiny_model: Path, short_dir: Path):
    for seed in itertools.count(1):
        made = await claim(pool, seed=seed, max_tokens=100)
        if made.header.proof_kind == "text":
            break
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(made, replayer)
    assert judge(found, LIMITS).verdict is Verdict.PASS
    assert found.sampled is not None
    assert found.sampled.withheld > 0
    assert found.sampled.checked == made.header.completion_tokens - found.sampled.withheld


@pytest.mark.parametrize("seed", [165, 201, 213, 242, 276])
async def test_of_characters_that_are_none_nothing_is_filled_in_wrongly(
    pool: LlamaPool, tiny_model: Path, short_dir: Path, seed: int
):
    made = await claim(pool, f"Tell me story {seed}", seed=seed, max_tokens=128)
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(made, replayer)
    assert judge(found, LIMITS).reasons == ()
    assert found.sampled is not None
    assert found.sampled.withheld


async def test_a_text_that_is_cut_off_where_a_stop_string_may_begin_is_not_held_against_its_node(
    pool: LlamaPool, tiny_model: Path, short_dir: Path
):
    whole = await plain_claim(pool)
    assert whole.delivered is not None
    begins = whole.delivered[-1]
    made = await claim(pool, seed=whole.header.seed, max_tokens=12, stop=(f"{begins}{begins}~",))
    assert made.delivered is not None
    assert whole.delivered.startswith(made.delivered)
    assert made.delivered != whole.delivered  # llama-server holds the last token back
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(made, replayer)
        assert judge(found, LIMITS).reasons == ()
        less = await with_model(made._replace(delivered=whole.delivered[:-4]), replayer)
    assert judge(less, LIMITS).reasons == ("the delivered text is not the text of the tokens",)


async def test_bytes_that_make_up_the_stop_string_itself_are_not_held_against_their_node(
    pool: LlamaPool, tiny_model: Path, short_dir: Path
):
    for seed in itertools.count(106):
        whole = await claim(pool, f"Tell me story {seed}", seed=seed, max_tokens=100)
        if two := re.match(r"[\x00-\x7f]*([^\x00-\x7f\ufffd]{2})", whole.delivered or ""):
            break
    made = await claim(pool, f"Tell me story {seed}", seed=seed, max_tokens=100, stop=(two[1],))
    assert (made.header.finish, made.delivered) == (FinishReason.STOP, two[0][:-2])
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        assert judge(await with_model(made, replayer), LIMITS).reasons == ()


async def test_tokens_that_may_hide_a_long_broken_end_are_no_fault(pool: LlamaPool, tiny_model: Path, short_dir: Path):
    made = await claim(pool, "Tell me story 191", seed=191, max_tokens=128)
    assert hidden(made.header, len(positions(made.leaves))) > 3
    assert judge(without_model(made), LIMITS).verdict is Verdict.SUSPECT
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        assert judge(await with_model(made, replayer), LIMITS).verdict is not Verdict.FAIL


@pytest.mark.parametrize("finish", [FinishReason.LENGTH, FinishReason.STOP])
async def test_a_text_that_ends_inside_a_character_is_not_held_against_its_node(
    finish: FinishReason, pool: LlamaPool, tiny_model: Path, short_dir: Path
):
    for seed in itertools.count(1):
        made = await claim(pool, seed=seed, max_tokens=40)
        if made.header.finish is finish and hidden(made.header, len(positions(made.leaves))):
            break  # the engine shows neither the bytes nor what ended it
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(made, replayer)
    assert found.ending is not None
    assert found.ending.faults == ()


async def test_hidden_tokens_excuse_neither_another_text_nor_tokens_that_were_never_made(
    short_dir: Path, tmp_path: Path
):
    letters = write_tiny_model(tmp_path / "letters.gguf", letters_only=True)
    letters.chmod(0o644)
    async with claiming.pool(letters, short_dir) as pool:
        made = await claim(pool, temperature_micros=0, max_tokens=12)
    paid = altered(made, completion_tokens=13, max_tokens=13)
    async with claiming.replayer(letters, short_dir) as replayer:
        found = await with_model(paid, replayer)
        other = await with_model(paid._replace(delivered="something else"), replayer)
    assert found.ending is not None
    [fault] = found.ending.faults
    assert "nobody was shown" in fault
    assert other.ending is not None
    assert "the delivered text is not the text of the tokens" in other.ending.faults


async def test_what_stands_behind_the_end_of_a_text_is_no_part_of_it(
    pool: LlamaPool, tiny_model: Path, short_dir: Path
):
    """No draw tells it from the end of a text that an engine would not have gone on from: only that it went on."""
    made = await plain_claim(pool)
    first, *rest = made.leaves
    lie = made._replace(leaves=(msgspec.structs.replace(first, ids=(*first.ids[:5], END, *first.ids[6:])), *rest))
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await with_model(lie, replayer)
    assert found.ending is not None
    assert "it goes on after a token that ends the text" in found.ending.faults


async def test_to_withhold_what_an_engine_would_have_shown_is_a_doubt(tmp_path: Path, short_dir: Path):
    letters = write_tiny_model(tmp_path / "letters.gguf", letters_only=True)
    letters.chmod(0o644)
    async with claiming.pool(letters, short_dir) as of, claiming.replayer(letters, short_dir) as replayer:
        made = await claim(of, max_tokens=12, temperature_micros=0)
        builder = TranscriptBuilder(claiming.N_PROBS)
        for at, one in enumerate(positions(made.leaves)):
            if at == 5:
                builder.add(Piece(text=""))
            else:
                builder.add(Piece(text="", token_id=one.token, top_ids=one.ids, top_logprobs=one.logprobs))
        leaves = tuple(map(read_leaf, builder.finish().leaves))
        found = await with_model(made._replace(leaves=leaves, delivered=f"é{made.delivered}"), replayer)
    assert found.ending is not None
    assert found.unknown == 0
    assert [doubt for doubt in found.ending.doubts if "withheld in 1 places" in doubt]


async def test_tokens_that_no_grammar_can_force_are_replayed_all_the_same(tiny_model: Path, short_dir: Path):
    ids = [270, 271, BYTE, 272, CONTROL, 273, END, 274]
    async with claiming.replayer(tiny_model, short_dir) as replayer:
        found = await replayer.replay([1, 280], ids, 5)
        assert [one.token for one in found] == ids
        assert all(len(one.ids) == len(one.logprobs) == 5 for one in found)
        # What stands behind a token does not change what the model thought before it.
        for at in range(len(ids)):
            [alone] = await replayer.replay([1, 280, *ids[:at]], ids[at : at + 1], 5)
            assert alone.ids == found[at].ids
            assert alone.logprobs == pytest.approx(found[at].logprobs, abs=1e-3)
        assert [await replayer.ends(token) for token in (END, CONTROL, 270)] == [True, False, False]
        assert await replayer.text([270, CONTROL, 271]) == await replayer.text([270]) + await replayer.text([271])


async def test_an_engine_that_cannot_load_the_model_says_why(short_dir: Path):
    broken = short_dir / "broken.gguf"
    broken.write_bytes(b"no model")
    broken.chmod(0o644)
    with pytest.raises(EngineError, match=r"not a GGUF model|could not load"):
        async with claiming.replayer(broken, short_dir):
            pass
