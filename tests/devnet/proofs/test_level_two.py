"""What a look at opened leaves shows, without a model."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.checks.verdict import Verdict
from agent.core.model import EmbeddingInput, TaskKind, Usage
from agent.core.proof.opening import open_leaves
from agent.core.proof.transcript import TranscriptBuilder
from agent.devnet.core.effects import SaveSettlement
from agent.devnet.core.proofs.level_two import Found, look
from agent.devnet.core.records import Settlement
from agent.devnet.keys import verify
from agent.ports import Piece
from tests import builders
from tests.devnet.proofs.challenged import Court, Opener, honest_transcript


class Settled:
    """One accepted result, and what its node keeps."""

    def __init__(self, *, seed: int | None = None, tokens: int = 70, transcript: Any = None, **pool: Any) -> None:
        self.court = Court()
        self.node: Opener = self.court.opener()
        self.court.submit(max_tokens=tokens)
        (offer,) = self.court.pull(self.node)
        self.transcript = transcript or honest_transcript(offer, tokens, seed=seed)
        receipt = self.court.deliver(self.node, self.node.answer(offer, self.transcript, **pool))
        assert receipt.status is wire.ReceiptStatus.ACCEPTED, receipt.detail
        (self.settlement,) = [it.settlement for it in self.court.writes if isinstance(it, SaveSettlement)]

    def look(self, opening: bytes, asked: tuple[int, ...] = (), **changes: Any) -> Found:
        it: Settlement = self.settlement
        bundle = wire.ReceiptBundle(
            coordinator_key=self.court.keys.public,
            offer=it.offer,
            result=it.result,
            receipt=it.receipt,
            output=it.output,
            opening=opening,
        )
        return look(msgspec.structs.replace(bundle, **changes), verify, asked)

    def look_at_all(self) -> Found:
        return self.look(open_leaves(self.transcript.leaves))


def test_an_honest_opening_passes_and_can_be_repeated() -> None:
    settled = Settled()
    found = settled.look(open_leaves(settled.transcript.leaves))
    assert (found.fault, found.verdict, found.reasons, found.repeatable) == ("", Verdict.PASS, (), True)


@pytest.mark.parametrize("class_id", ["F-0011223344556677", "X-0011223344556677", "U"])
def test_tokens_of_another_seed_fail_in_every_class(class_id: str) -> None:
    settled = Settled(seed=99, determinism=class_id)
    found = settled.look(open_leaves(settled.transcript.leaves))
    assert (found.verdict, found.fault) == (Verdict.FAIL, "")
    assert "tokens are not what the seed draws" in found.said()
    assert found.repeatable is (class_id != "U")


def test_other_leaves_than_the_committed_are_told() -> None:
    settled, other = Settled(), Settled(seed=99)
    assert "not those that were committed to" in settled.look(open_leaves(other.transcript.leaves)).fault


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\xff" * 100, b"\x01\x00\x00\x00\x00"])
def test_garbage_is_told_and_breaks_nothing(raw: bytes) -> None:
    assert Settled().look(raw).fault


def test_all_leaves_are_wanted_and_none_may_be_bare() -> None:
    settled = Settled()
    assert "not all leaves" in settled.look(open_leaves(settled.transcript.leaves, (0,))).fault


def test_where_some_leaves_were_asked_for_these_must_be_shown() -> None:
    settled = Settled()
    some = open_leaves(settled.transcript.leaves, (0, 2))
    assert (settled.look(some, (0, 2)).fault, settled.look(some, (0, 2)).verdict) == ("", Verdict.PASS)
    assert "not all leaves" in settled.look(some, (0, 1)).fault


def test_an_engine_of_no_class_is_not_held_to_candidates_that_it_cannot_tell() -> None:
    builder = TranscriptBuilder(0)
    for _ in range(70):
        builder.add(Piece(text="t"))
    settled = Settled(transcript=builder.finish(), determinism="U", engine="someone's engine 1")
    found = settled.look(open_leaves(settled.transcript.leaves))
    assert (found.verdict, found.repeatable) == (Verdict.PASS, False), found


@pytest.mark.parametrize("engine", ["ollama 0.5", "openai", "sglang 0.4", "no engine that anybody knows"])
def test_an_engine_that_shows_no_tokens_promises_nothing_by_naming_a_class(engine: str) -> None:
    builder = TranscriptBuilder(0)
    for _ in range(70):
        builder.add(Piece(text="t"))
    assert not Settled(transcript=builder.finish(), engine=engine).look_at_all().repeatable


def test_candidates_that_were_promised_are_missed_of_an_engine_whose_draws_nobody_replays() -> None:
    builder = TranscriptBuilder(0)
    for _ in range(70):
        builder.add(Piece(text="t", token_id=5))
    found = Settled(transcript=builder.finish(), engine="vllm 0.11").look_at_all()
    assert (found.verdict, "lack the candidates" in found.said()) == (Verdict.FAIL, True)


def test_leaves_of_another_kind_are_not_those_that_were_promised() -> None:
    builder = TranscriptBuilder(0)
    builder.add_rows([[]] * 70)
    for _ in range(70):
        builder.add(Piece(text=""))
    assert "no proof of the kind" in Settled(transcript=builder.finish()).look_at_all().fault


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"finish_reason": "stop"}, "told that it ended by stop"),
        ({"usage": {"prompt_tokens": 10, "completion_tokens": 69}}, "told other token counts"),
    ],
)
def test_who_tells_the_requester_another_end_than_he_commits_to_is_found(told: dict[str, Any], words: str) -> None:
    settled = Settled()
    leaves = open_leaves(settled.transcript.leaves)
    usage = {"prompt_tokens": 10, "completion_tokens": 70}
    honest = {"text": "t" * 70, "finish_reason": "length", "usage": usage}
    assert settled.look(leaves, output=json.dumps(honest)).verdict is Verdict.PASS
    found = settled.look(leaves, output=json.dumps(honest | told))
    assert (found.verdict, words in found.said()) == (Verdict.FAIL, True), found


def test_leaves_behind_a_token_that_was_withheld_need_not_be_repeated() -> None:
    assert Settled().look_at_all().known == (0, 1, 2)
    builder = TranscriptBuilder(0)
    for at in range(70):
        builder.add(Piece(text="t", token_id=None if at == 40 else 5))
    withheld = Settled(transcript=builder.finish()).look_at_all()
    assert withheld.known[:2] == (0, 1)
    assert len(withheld.known) == 2


def test_who_promised_candidates_and_committed_to_none_is_found_in_part_of_the_leaves() -> None:
    builder = TranscriptBuilder(0)
    for _ in range(70):
        builder.add(Piece(text="t", token_id=5))
    settled = Settled(transcript=builder.finish())
    found = settled.look(open_leaves(settled.transcript.leaves, (0, 2)), (0, 2))
    assert (found.verdict, "lack the candidates" in found.said()) == (Verdict.FAIL, True)


@pytest.mark.parametrize(("told", "verdict"), [(0.25, Verdict.PASS), (0.26, Verdict.FAIL)], ids=["same", "other"])
def test_delivered_rows_must_be_those_of_the_transcript(told: float, verdict: Verdict) -> None:
    court = Court()
    node = court.opener()
    court.book.nodes[node.node_id].show(builders.fingerprint(pools=(builders.pool(kinds=(TaskKind.EMBEDDING,)),)))
    court.submit(input=EmbeddingInput(texts=("a", "b")), max_tokens=0)
    (offer,) = court.pull(node)
    builder = TranscriptBuilder(0)
    builder.add_rows([[0.5, 0.25], [1.0, -2.0]])
    transcript = builder.finish()
    output = json.dumps({"vectors": [[0.5, told], [1.0, -2.0]]})
    usage = Usage(prompt_tokens=4, completion_tokens=0)
    commitment = node.commitment(offer, output, usage, transcript)
    receipt = court.deliver(node, node.success(offer, output, usage=usage, commitment=commitment))
    assert receipt.beacon is not None, receipt.detail
    (settlement,) = [it.settlement for it in court.writes if isinstance(it, SaveSettlement)]
    bundle = wire.ReceiptBundle(
        coordinator_key=court.keys.public,
        offer=settlement.offer,
        result=settlement.result,
        receipt=settlement.receipt,
        output=output,
        opening=open_leaves(transcript.leaves),
    )
    found = look(bundle, verify)
    assert (found.fault, found.verdict) == ("", verdict), found


@pytest.mark.parametrize(
    "output", ["the cheap answer", "{}", '{"text":null}', '{"text":"another answer","vectors":5}', '{"text":7}']
)
def test_an_output_that_cannot_be_held_against_the_leaves_fails(output: str) -> None:
    """However well the leaves were computed: the requester got something else."""
    settled = Settled()
    found = settled.look(open_leaves(settled.transcript.leaves), output=output)
    assert (found.verdict, found.reasons) == (
        Verdict.FAIL,
        ("what was delivered is no answer: nothing in it can be compared",),
    )


def test_an_output_that_is_no_text_fails() -> None:
    settled = Settled()
    assert settled.look(open_leaves(settled.transcript.leaves), output=None).verdict is Verdict.FAIL
