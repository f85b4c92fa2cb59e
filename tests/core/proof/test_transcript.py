from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import ProofError
from agent.core.model import Commitment
from agent.core.proof.files import FileLeaf
from agent.core.proof.header import ProofKind
from agent.core.proof.leaves import check_kinds, check_leaves, read_leaf, split_leaves
from agent.core.proof.merkle import leaf_hash, root
from agent.core.proof.transcript import LEAF_TOKENS, LeafKind, Transcript, TranscriptBuilder
from agent.ports import Piece
from tests.core.proof.making import token, transcript

F32S = st.floats(width=32, allow_nan=False)
U32S = st.integers(0, 2**32 - 1)
CANDIDATES = st.lists(st.tuples(U32S, F32S), max_size=5).map(tuple)


def commitment_to(leaves: tuple[bytes, ...]) -> Commitment:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    return Commitment(header="", root=root(hashes).hex(), leaves=len(leaves))


def checked(made: Transcript):
    return check_leaves(made.leaves, commitment_to(made.leaves))


@given(st.lists(st.tuples(U32S, CANDIDATES), max_size=80), st.none() | F32S)
def test_tokens_and_candidates_read_back_as_they_were(tokens, end_logprob):
    builder = TranscriptBuilder(5)
    for number, candidates in tokens:
        ids, logprobs = tuple(i for i, _ in candidates), tuple(p for _, p in candidates)
        builder.add(Piece(text="", token_id=number, top_ids=ids, top_logprobs=logprobs))
    leaves = checked(builder.finish(end_logprob))
    assert [number for leaf in leaves for number in leaf.ids] == [number for number, _ in tokens]
    assert [candidates for leaf in leaves for candidates in leaf.candidates] == [item for _, item in tokens]
    assert (leaves[-1].entries, leaves[-1].end_logprob) == (len(tokens), end_logprob)


@given(st.lists(st.booleans(), max_size=100))
def test_engines_that_tell_ids_only_at_times_lose_nothing(with_ids: list[bool]):
    builder = TranscriptBuilder(3)
    for number, told in enumerate(with_ids):
        builder.add(token(number) if told else Piece(text=f"p{number}"))
    made = builder.finish()
    leaves = checked(made)
    assert sum(len(leaf.ids) for leaf in leaves) == sum(with_ids)
    texts = [text.decode() for leaf in leaves for text in leaf.texts]
    assert texts == [f"p{number}" for number, told in enumerate(with_ids) if not told]
    assert made.proof_kind == ("tokens_f32" if all(with_ids) else "text")


@given(st.lists(st.lists(F32S, max_size=6).map(tuple), max_size=6))
def test_rows_read_back_as_they_were(rows):
    builder = TranscriptBuilder(3)
    builder.add_rows(rows)
    assert [leaf.row for leaf in checked(builder.finish())[:-1]] == rows


def test_the_running_hash_comes_with_every_32nd_token_and_chains_all_before():
    builder = TranscriptBuilder(3)
    running = [builder.add(token(number)) for number in range(70)]
    assert [number for number, value in enumerate(running) if value] == [31, 63]
    other = TranscriptBuilder(3)
    changed = [other.add(token(number + (number == 0))) for number in range(70)]
    assert changed[63] != running[63]
    assert running[63] == leaf_hash(builder.finish().leaves[1]).hex()


def test_no_more_candidates_are_kept_than_asked_for():
    builder = TranscriptBuilder(2)
    builder.add(token(1, candidates=9))
    assert [len(candidates) for candidates in read_leaf(builder.finish().leaves[0]).candidates] == [2]


@pytest.mark.parametrize(
    "piece",
    [
        Piece(text="", token_id=1, top_ids=(1,), top_logprobs=(math.nan,)),
        Piece(text="", token_id=1, top_ids=(1,), top_logprobs=(1e39,)),
        Piece(text="", token_id=1, top_ids=(1, 2), top_logprobs=(-1.0,)),
        Piece(text="", token_id=1, top_ids=(-1,), top_logprobs=(-1.0,)),
    ],
    ids=["NaN", "too large", "unpaired", "negative id"],
)
def test_numbers_that_cannot_be_written_down_are_refused(piece: Piece):
    with pytest.raises(ProofError) as refused:
        TranscriptBuilder(3).add(piece)
    assert refused.value.check == "encoding"


def test_a_token_id_that_is_no_u32_is_refused():
    builder = TranscriptBuilder(3)
    builder.add(Piece(text="", token_id=2**32))
    with pytest.raises(ProofError):
        builder.finish()


def test_minus_infinity_is_a_log_probability():
    builder = TranscriptBuilder(3)
    builder.add(Piece(text="", token_id=1, top_ids=(1, 2), top_logprobs=(0.0, -math.inf)))
    assert checked(builder.finish())[0].candidates == (((1, 0.0), (2, -math.inf)),)


def reshaped(made: Transcript, change) -> tuple[bytes, ...]:
    """Leaves with one thing changed, and the chain of hashes made good again."""
    leaves, previous = [], bytes(32)
    for leaf in change(list(made.leaves)):
        leaves.append(leaf[:5] + previous + leaf[37:])
        previous = leaf_hash(leaves[-1])
    return tuple(leaves)


def _renumbered(leaves: list[bytes]) -> list[bytes]:
    return [leaf[:1] + struct.pack("<I", index) + leaf[5:] for index, leaf in enumerate(leaves)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda leaves: leaves[:-1], "out of place"),
        (lambda leaves: _renumbered([leaves[0], leaves[2], leaves[1]]), "out of place"),
        (lambda leaves: [leaves[1], leaves[0], leaves[2]], "out of place"),
        (lambda leaves: _renumbered([leaves[1], leaves[0], leaves[2]]), "not full"),
        (lambda leaves: _renumbered([leaves[0], leaves[2]]), "counts otherwise"),
    ],
    ids=["no end", "end in the middle", "swapped", "short leaf first", "leaf left out"],
)
def test_a_transcript_of_another_shape_is_refused_though_its_root_fits(change, words: str):
    leaves = reshaped(transcript(tokens=40), change)
    with pytest.raises(ProofError, match=words) as refused:
        check_leaves(leaves, commitment_to(leaves))
    assert refused.value.check == "transcript_leaves"


def _with(*more: str) -> Transcript:
    """Forty tokens, behind a row or among what else one names."""
    builder = TranscriptBuilder(1)
    if "row" in more:
        builder.add_rows([[]])
    for number in range(40):
        builder.add(token(number))
    if "text" in more:
        builder.add(Piece(text=""))
    if "file" in more:
        builder.add_files([FileLeaf(b"out", 0, "00" * 32)])
    return builder.finish()


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        (("row",), ProofKind.ROWS),
        (("row",), ProofKind.TOKENS_F32),
        (("file",), ProofKind.TOKENS_F32),
        (("text", "row"), ProofKind.TEXT),
        (("text", "file"), ProofKind.TEXT),
        (("text",), ProofKind.TOKENS_F32),
        ((), ProofKind.TEXT),
    ],
)
def test_leaves_of_another_kind_than_the_committed_one_are_refused(more: tuple[str, ...], kind: ProofKind):
    """Rows among tokens have no tokens, but they count: what stands behind them would be looked for elsewhere."""
    with pytest.raises(ProofError, match="no proof of the kind") as refused:
        check_kinds(checked(_with(*more)), kind)
    assert refused.value.check == "transcript_leaves"


def test_leaves_of_the_committed_kind_are_taken():
    check_kinds(checked(_with()), ProofKind.TOKENS_F32)
    check_kinds(checked(_with("text")), ProofKind.TEXT)
    check_kinds(checked(TranscriptBuilder(0).finish()), ProofKind.TOKENS_F32)


def test_a_broken_chain_is_refused_though_the_root_fits():
    leaves = list(transcript().leaves)
    leaves[1] = leaves[1][:5] + bytes(32) + leaves[1][37:]
    with pytest.raises(ProofError, match="does not continue"):
        check_leaves(leaves, commitment_to(tuple(leaves)))


@given(st.data())
def test_a_transcript_with_any_byte_changed_is_not_the_one_committed_to(data: st.DataObject):
    made = transcript()
    leaves = list(made.leaves)
    which = data.draw(st.integers(0, len(leaves) - 1))
    at = data.draw(st.integers(0, len(leaves[which]) - 1))
    changed = bytearray(leaves[which])
    changed[at] ^= data.draw(st.integers(1, 255))
    leaves[which] = bytes(changed)
    with pytest.raises(ProofError) as refused:
        check_leaves(leaves, commitment_to(made.leaves))
    assert refused.value.check == "transcript_root"


@settings(max_examples=500)
@given(st.sampled_from(list(LeafKind)), st.binary(max_size=200))
def test_random_bytes_end_in_a_leaf_or_a_refusal(kind: LeafKind, body: bytes):
    raw = bytes([kind]) + bytes(36) + body
    try:
        leaf = read_leaf(raw)
    except ProofError:
        return
    assert leaf.kind is kind
    assert leaf.count <= LEAF_TOKENS


@given(st.binary(max_size=300))
def test_random_bytes_are_split_or_refused_and_never_crash(raw: bytes):
    try:
        leaves = split_leaves(raw)
    except ProofError:
        return
    assert b"".join(struct.pack("<I", len(leaf)) + leaf for leaf in leaves) == raw


def test_a_length_beyond_any_leaf_is_refused_at_once():
    with pytest.raises(ProofError, match="is over"):
        split_leaves(b"\xff\xff\xff\xff")
