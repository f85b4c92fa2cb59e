"""Prompt tokens are paid: who names no tokens is held to the verifier's own count of them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.checks.claim import Claim, overcounted
from agent.core.checks.verdict import Thresholds, Verdict, judge
from agent.core.model import EmbeddingInput, FinishReason, TaskKind, Usage
from agent.core.proof.header import Header, header_of
from agent.core.proof.leaves import read_leaf
from agent.core.proof.transcript import TranscriptBuilder
from agent.ports import Embedded
from agent.stages.recheck import with_model
from tests import builders

ROWS = ((1.0, 0.0), (0.6, 0.8))
TEXTS = EmbeddingInput(texts=("a text", "another"))


def embedded(prompt_tokens: int) -> Claim:
    """What a node says of two texts."""
    builder = TranscriptBuilder(0)
    builder.add_rows(ROWS)
    made = builder.finish()
    header = header_of(
        builders.offer(spec=builders.task(task_input=TEXTS, max_tokens=0)),
        builders.pool(engine="llama-server b1-86a2835"),
        node_key="ab" * 32,
        n_probs=0,
        finish=FinishReason.STOP,
        usage=Usage(prompt_tokens=prompt_tokens),
        request_sha256="11" * 32,
        prompt_sha256="",
        proof_kind=made.proof_kind,
        output_sha256="22" * 32,
    )
    return Claim(TEXTS, header, tuple(read_leaf(leaf) for leaf in made.leaves), vectors=ROWS)


class Embeds:
    """Implements what is asked of ports.Replayer: an engine that counts seven tokens."""

    async def rows(self, _texts: tuple[str, ...]) -> Embedded:
        return Embedded(ROWS, 7)


@pytest.mark.parametrize(("claimed", "verdict"), [(7, Verdict.PASS), (23, Verdict.PASS), (24, Verdict.FAIL)])
@pytest.mark.parametrize("exact", [False, True])
async def test_whoever_embeds_is_paid_for_the_tokens_that_there_are(
    claimed: int, verdict: Verdict, exact: bool
) -> None:
    found = await with_model(embedded(claimed), Embeds(), exact=exact)  # type: ignore[arg-type]
    assert judge(found, Thresholds()).verdict is verdict


@given(own=st.integers(1, 10**6), more=st.integers(0, 10**6), texts=st.integers(1, 2048))
def test_a_margin_of_sixteen_an_eighth_or_two_a_text_is_no_lie(own: int, more: int, texts: int) -> None:
    header: Header = msgspec.structs.replace(embedded(0).header, prompt_tokens=own + more)
    assert overcounted(header, own, texts) == max(more - max(16, own // 8, 2 * texts), 0)
    named = msgspec.structs.replace(header, prompt_sha256="ab" * 32)
    assert overcounted(named, own, texts) == overcounted(header, own, texts)
    assert overcounted(msgspec.structs.replace(named, task_kind=TaskKind.CHAT), own) == 0  # held to the tokens


def test_nobody_is_held_to_the_count_of_an_engine_that_does_not_count() -> None:
    assert overcounted(embedded(1_000_000).header, 0) == 0
