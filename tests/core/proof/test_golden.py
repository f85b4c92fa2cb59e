"""The bytes are those of the specification: vectors made by a second implementation (tests/golden/proof/make.py)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest

from agent.core.proof.commitment import commit, read_commitment
from agent.core.proof.files import FileLeaf
from agent.core.proof.header import Header, decode_header
from agent.core.proof.leaves import check_leaves
from agent.core.proof.merkle import leaf_hash, root
from agent.core.proof.program import ProgramHeader, decode_program_header
from agent.core.proof.transcript import Transcript, TranscriptBuilder
from agent.ports import Piece

GOLDEN = Path(__file__).parents[2] / "golden" / "proof"
COMMITMENT = json.loads((GOLDEN / "commitment.json").read_text())
PROGRAM = json.loads((GOLDEN / "program.json").read_text())
HEADER = msgspec.convert(COMMITMENT["header"], Header)


def built(case: dict) -> tuple[Transcript, list[str]]:
    builder, running = TranscriptBuilder(40), []
    for token in case.get("tokens", ()):
        running.append(
            builder.add(
                Piece(
                    text=token["text"],
                    token_id=token["id"],
                    top_ids=tuple(token["top_ids"]),
                    top_logprobs=tuple(token["top_logprobs"]),
                )
            )
        )
    running += [builder.add(Piece(text=text)) for text in case.get("texts", ())]
    running.append(builder.add_rows(case.get("rows", ())))
    builder.add_imprints([bytes.fromhex(text) for text in case.get("imprints", ())])
    return builder.finish(case.get("end_logprob")), [value for value in running if value]


@pytest.mark.parametrize("case", json.loads((GOLDEN / "transcripts.json").read_text()), ids=lambda case: case["name"])
def test_transcripts_have_the_specified_leaves_and_root(case: dict):
    made, running = built(case)
    assert [leaf.hex() for leaf in made.leaves] == case["leaves"]
    assert [leaf_hash(leaf).hex() for leaf in made.leaves] == case["hashes"]
    assert made.root == case["root"]
    assert made.proof_kind == case["proof_kind"]
    assert set(running) <= set(case["hashes"])
    check_leaves(made.leaves, commit(HEADER, made))


@pytest.mark.parametrize(
    "case", json.loads((GOLDEN / "merkle.json").read_text()), ids=lambda case: f"{len(case['leaves'])}"
)
def test_roots_are_the_specified_ones(case: dict):
    assert root([leaf_hash(bytes.fromhex(leaf)) for leaf in case["leaves"]]).hex() == case["root"]


def test_the_header_has_the_specified_bytes_and_reads_back():
    assert HEADER.encode().hex() == COMMITMENT["header_bytes"]
    assert decode_header(HEADER.encode()) == HEADER


def test_the_commitment_carries_the_specified_header():
    made = Transcript((b"",) * COMMITMENT["leaves"], COMMITMENT["root"], HEADER.proof_kind)
    commitment = commit(HEADER, made)
    assert base64.b64decode(commitment.header).hex() == COMMITMENT["header_bytes"]
    assert read_commitment(commitment, COMMITMENT["node_key"]) == HEADER


def test_a_program_has_the_specified_header_and_leaves():
    expected = msgspec.convert(PROGRAM["header"], ProgramHeader)
    assert expected.encode().hex() == PROGRAM["header_bytes"]
    assert decode_program_header(expected.encode()) == expected
    builder = TranscriptBuilder(0)
    builder.add_files(
        FileLeaf(bytes.fromhex(it["path"]), it["size"], it["sha256"], it["mode"] == 1, it["mode"] == 2)
        for it in PROGRAM["files"]
    )
    made = builder.finish()
    assert [leaf.hex() for leaf in made.leaves] == PROGRAM["leaves"]
    assert made.root == PROGRAM["root"]
    assert made.proof_kind == expected.proof_kind
    check_leaves(made.leaves, commit(expected, made))
