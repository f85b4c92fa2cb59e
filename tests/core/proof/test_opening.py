"""Opened leaves show what was committed to and nothing else, whatever an opener writes into them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.core import wire
from agent.core.checks import claims
from agent.core.checks.sampling import check_sampling
from agent.core.errors import ProofError
from agent.core.model import Commitment
from agent.core.proof import opening
from agent.core.proof.canonical import U16, U32
from agent.core.proof.files import leaves_of
from agent.core.proof.leaves import Leaf, join_leaves, read_leaf
from agent.core.proof.merkle import leaf_hash, root
from agent.core.proof.opening import BareLeaf, open_leaves, read_opening
from agent.core.proof.transcript import LeafKind, Transcript, TranscriptBuilder
from agent.ports import Piece
from tests.core.proof.making import ARCHIVE, header, token, transcript
from tests.core.proof.second_reader import RefusedError
from tests.core.proof.second_reader import read_opening as read_by_the_document

GOLDEN = Path(__file__).parents[2] / "golden" / "proof" / "openings.json"
KINDS = [LeafKind.TOKENS, LeafKind.TEXT, LeafKind.ROW]


def mixed(kinds: list[LeafKind]) -> Transcript:
    """A transcript of tokens, withheld pieces and rows, in this order."""
    builder = TranscriptBuilder(3)
    for number, kind in enumerate(kinds):
        match kind:
            case LeafKind.TOKENS:
                builder.add(token(number))
            case LeafKind.TEXT:
                builder.add(Piece(text=f"p{number}"))
            case _:
                builder.add_rows([(0.5, float(number))])
    return builder.finish(-0.25)


def committed(made: Transcript, **changes: object) -> Commitment:
    return Commitment(**{"header": "", "root": made.root, "leaves": len(made.leaves), **changes})


MADE = transcript(130)
COMMITTED = committed(MADE)
PARTLY = open_leaves(MADE.leaves, (0, 2))


def refused(raw: bytes, commitment: Commitment = COMMITTED) -> str:
    with pytest.raises(ProofError) as caught:
        read_opening(raw, commitment)
    assert caught.value.check == "opening"
    return caught.value.message


@given(
    kinds=st.lists(st.sampled_from(KINDS), max_size=90).map(lambda kinds: sorted(kinds, key=lambda kind: kind == 3)),
    chosen=st.sets(st.integers(0, 8)),
)
def test_chosen_leaves_are_shown_and_of_the_others_what_stands_in_for_them(kinds: list, chosen: set[int]) -> None:
    made = mixed(kinds)
    chosen = {index for index in chosen if index < len(made.leaves)}
    read = read_opening(open_leaves(made.leaves, chosen), committed(made))
    shown = chosen or set(range(len(made.leaves)))
    assert set(read.opened) == shown - {len(made.leaves) - 1}
    for index, (leaf, raw) in enumerate(zip(read.leaves, made.leaves, strict=True)):
        full = read_leaf(raw)
        assert (leaf.index, leaf.kind, leaf.ids) == (index, full.kind, full.ids)
        assert leaf == full if index in {*shown, len(made.leaves) - 1} else isinstance(leaf, BareLeaf)
    assert read.whole == (read.transcript is not None) == all(isinstance(leaf, Leaf) for leaf in read.leaves)


def test_an_opening_of_everything_is_the_transcript() -> None:
    read = read_opening(open_leaves(MADE.leaves), COMMITTED)
    assert read.transcript == join_leaves(MADE.leaves)
    assert read.opened == (0, 1, 2, 3, 4)


def test_what_an_answer_of_nothing_opens_is_its_end() -> None:
    made = transcript(0)
    read = read_opening(open_leaves(made.leaves), committed(made))
    assert (read.opened, read.whole, len(read.leaves)) == ((), True, 1)


def test_a_leaf_that_does_not_exist_cannot_be_opened() -> None:
    for index in (-1, len(MADE.leaves)):
        with pytest.raises(ProofError, match=r"there is no leaf"):
            open_leaves(MADE.leaves, (0, index))


def test_tokens_of_bare_leaves_count_as_unopened_and_are_not_held_against_the_node() -> None:
    read = read_opening(PARTLY, COMMITTED)
    found = check_sampling(claims.positions(read.leaves), claims.sampler(header(MADE)), 3)
    assert (found.unopened, found.malformed) == (130 - 64, ())
    assert [(chunk.leaf, chunk.start) for chunk in claims.chunks(read.leaves)] == [(0, 0), (2, 64)]


# --------------------------------------------------------------------------- what is refused


def test_another_commitments_opening_is_refused() -> None:
    assert "not those" in refused(PARTLY, committed(MADE, root=transcript(129).root))
    assert "committed to" in refused(PARTLY, committed(MADE, leaves=7))


@pytest.mark.parametrize("index", range(6))
def test_a_leaf_of_ones_own_making_is_refused(index: int) -> None:
    leaves = list(MADE.leaves)
    leaves[index] = leaves[index][:-1] + bytes([leaves[index][-1] ^ 1])
    refused(open_leaves(leaves, (index,)))


def test_leaves_in_another_order_or_twice_or_missing_are_refused() -> None:
    leaves = MADE.leaves
    for others in ((leaves[1], leaves[0], *leaves[2:]), (leaves[0], *leaves), leaves[:-1], leaves[1:], ()):
        for chosen in ((), (0,)) if others else ((),):
            refused(open_leaves(others, chosen))


def test_a_bare_end_leaf_is_refused() -> None:
    kept = open_leaves(MADE.leaves, (0,))
    cut = kept[: -(5 + len(MADE.leaves[-1]))]
    assert kept == cut + b"\x01" + U32.write(len(MADE.leaves[-1])) + MADE.leaves[-1]
    assert "end leaf" in refused(cut + b"\x00" + leaf_hash(MADE.leaves[-1]) + b"\x00")


def test_bare_leaves_that_do_not_add_up_are_refused() -> None:
    """Leaf 4 has 2 tokens: fewer in another leaf, or more in it, are not what the end leaf counts."""
    at = PARTLY.index(leaf_hash(MADE.leaves[4])) + 33
    assert "counts otherwise" in refused(PARTLY[:at] + U16.write(3) + bytes(4) + PARTLY[at + 2 :])
    at = PARTLY.index(leaf_hash(MADE.leaves[1])) + 33
    assert "not full" in refused(PARTLY[:at] + U16.write(31) + PARTLY[at + 6 :])
    assert "over 32" in refused(PARTLY[:at] + U16.write(33) + bytes(4) + PARTLY[at + 2 :])


def test_an_end_that_counts_otherwise_is_refused_under_its_own_root() -> None:
    """A dishonest node may commit to it; nobody else could have."""
    wrong = MADE.leaves[-1].replace((130).to_bytes(8, "little"), (131).to_bytes(8, "little"))
    leaves = (*MADE.leaves[:-1], wrong)
    own = Commitment(header="", root=root([leaf_hash(leaf) for leaf in leaves]).hex(), leaves=len(leaves))
    assert "counts otherwise" in refused(open_leaves(leaves, (0,)), own)


def test_a_leaf_that_continues_another_is_refused_under_its_own_root() -> None:
    swapped = (MADE.leaves[0], MADE.leaves[1].replace(leaf_hash(MADE.leaves[0]), bytes(32)), *MADE.leaves[2:])
    own = Commitment(header="", root=root([leaf_hash(leaf) for leaf in swapped]).hex(), leaves=len(swapped))
    assert "does not continue" in refused(open_leaves(swapped, (1,)), own)


def test_what_no_blob_can_carry_is_neither_made_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opening.MAX_BLOB_BYTES == wire.MAX_BLOB_BYTES
    assert "over" in refused(bytes(wire.MAX_BLOB_BYTES + 1))
    with pytest.raises(ProofError, match="open fewer"):
        open_leaves([bytes(wire.MAX_BLOB_BYTES)])


@settings(max_examples=300)
@given(at=st.integers(0, len(PARTLY) * 8 - 1))
def test_any_flipped_bit_is_refused_or_changes_nothing_that_is_open(at: int) -> None:
    changed = bytearray(PARTLY)
    changed[at // 8] ^= 1 << at % 8
    honest = read_opening(PARTLY, COMMITTED)
    try:
        read = read_opening(bytes(changed), COMMITTED)
    except ProofError:
        refused(bytes(changed))
        return
    pairs = list(zip(read.leaves, honest.leaves, strict=True))
    assert all(one == other for one, other in pairs if isinstance(other, Leaf))
    # Only the ids of a bare leaf can have changed: the root binds them no further.
    assert sum(one != other for one, other in pairs) == 1


@given(st.binary(max_size=300) | st.builds(lambda cut, tail: PARTLY[:cut] + tail, st.integers(0, 200), st.binary()))
def test_noise_is_refused_and_never_crashes(raw: bytes) -> None:
    assume(raw != PARTLY)
    refused(raw)


# --------------------------------------------------------------------------- the document's other readers


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda case: case["name"])
def test_openings_have_the_specified_bytes(case: dict) -> None:
    leaves = [bytes.fromhex(leaf) for leaf in case["leaves"]]
    assert open_leaves(leaves, case["chosen"]).hex() == case["opening"]
    read = read_opening(bytes.fromhex(case["opening"]), committed(MADE, root=case["root"], leaves=len(leaves)))
    assert list(read.opened) == case["opened"]


@settings(max_examples=200)
@given(
    kinds=st.lists(st.sampled_from(KINDS), max_size=70).map(lambda kinds: sorted(kinds, key=lambda kind: kind == 3)),
    chosen=st.sets(st.integers(0, 5)),
    flip=st.none() | st.integers(0, 1 << 16),
)
def test_the_second_reader_agrees(kinds: list, chosen: set[int], flip: int | None) -> None:
    made = mixed(kinds)
    raw = bytearray(open_leaves(made.leaves, {index for index in chosen if index < len(made.leaves)}))
    if flip is not None:
        raw[flip // 8 % len(raw)] ^= 1 << flip % 8
    try:
        leaves, opened = read_by_the_document(bytes(raw), made.root, len(made.leaves))
    except RefusedError:
        refused(bytes(raw), committed(made))
        return
    read = read_opening(bytes(raw), committed(made))
    assert list(read.opened) == opened
    for ours, theirs in zip(read.leaves, leaves, strict=True):
        assert (ours.kind, list(ours.ids)) == (theirs["kind"], theirs.get("ids", []))
        assert isinstance(ours, BareLeaf) == theirs["bare"]


def test_what_a_program_left_is_opened_file_by_file() -> None:
    builder = TranscriptBuilder(0)
    builder.add_files(leaves_of(ARCHIVE))
    made = builder.finish()
    read = read_opening(open_leaves(made.leaves, (0,)), committed(made))
    shown = read.leaves[0]
    assert isinstance(shown, Leaf)
    assert shown.file is not None
    assert shown.file.sha256 == hashlib.sha256(b"\x89PNG").hexdigest()
