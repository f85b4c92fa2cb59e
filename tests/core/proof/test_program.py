"""Receipts of programs: the archive alone is enough to check what was committed to."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agent.core import wire
from agent.core.errors import ProofError
from agent.core.model import Blob, ExecInput
from agent.core.proof.commitment import check_header, commit, read_commitment
from agent.core.proof.program import Ended, check_program_against_offer, decode_program_header
from agent.core.proof.receipt import examine
from agent.edges.signing import verify
from tests import builders
from tests.core.proof.making import (
    ARCHIVE,
    NODE_KEYS,
    PROGRAM,
    archive,
    bundle,
    program_header,
    program_offer,
    program_result,
    transcript,
)


def failed(sound: wire.ReceiptBundle, **options: Any) -> str:
    error = examine(sound, verify, **options).error
    return error.check if error else ""


def test_a_sound_receipt_of_a_program_passes_every_check_with_and_without_its_archive():
    sound = bundle(program_offer())
    assert failed(sound) == ""
    verdict = examine(sound, verify, artifact=ARCHIVE)
    assert verdict.error is None
    assert verdict.passed[-1].name == "artifact"


@pytest.mark.parametrize(
    "other",
    [
        b"",
        ARCHIVE[:-1],
        ARCHIVE + b"x",
        archive({b"out/frame.png": b"\x89PNX", b"stderr": b"", b"stdout": b"frame 7\n"}),
    ],
)
def test_another_archive_is_refused(other: bytes):
    assert failed(bundle(program_offer()), artifact=other) == "artifact"


@pytest.mark.parametrize("left", [b"no archive at all", archive({b"stdout": b"other"})])
def test_an_archive_that_was_signed_for_and_not_committed_to_is_refused(left: bytes):
    offer = program_offer()
    if left.startswith(b"no"):
        with pytest.raises(ProofError):
            program_result(offer, left)
        return
    signed = program_result(offer, left)
    committed = program_header(offer=offer, artifact=signed["artifact"].sha256)
    lying = {**signed, "commitment": commit(committed, transcript())}
    assert failed(bundle(offer, result=lying), artifact=left) == "artifact"


def test_a_header_of_another_artifact_is_refused():
    assert failed(bundle(program_offer(), result={"artifact": Blob(sha256="ab" * 32, bytes=1)})) == "header_output"
    assert failed(bundle(program_offer(), result={"artifact": None})) == "header_output"


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ("/bundle/render",)},
        {"env": {}},
        {"inputs": {}},
        {"outputs": ("**",)},
        {"cwd": "/tmp"},
        {"merge_stderr": False},
        {"limits": replace(PROGRAM.limits, wall_s=1)},
        {"bundle": replace(PROGRAM.bundle, sha256="56" * 32)},
        {"bundle": replace(PROGRAM.bundle, publisher="67" * 32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_header_that_says_otherwise_than_the_offer_is_refused(changes: dict[str, Any]):
    asked: ExecInput = replace(PROGRAM, **changes)
    spec = replace(program_offer().task, input=asked)
    with pytest.raises(ProofError) as refused:
        check_header(program_header(), program_offer(task=spec))
    assert refused.value.check == "header_offer"


def test_a_programs_header_is_none_for_a_chat_and_a_chats_is_none_for_a_program():
    with pytest.raises(ProofError):
        check_program_against_offer(program_header(), builders.offer())
    assert failed(bundle(builders.offer(), result=program_result(program_offer()))) == "header_offer"


def test_the_order_in_which_names_were_given_changes_nothing():
    spec = replace(program_offer().task, input=replace(PROGRAM, env=dict(reversed(PROGRAM.env.items()))))
    assert program_header(offer=program_offer(task=spec)) == program_header()


@pytest.mark.parametrize(
    "changes",
    [
        {"env": (("B", ""), ("A", ""))},
        {"env": (("A", ""), ("A", ""))},
        {"inputs": (("b", "11" * 32), ("a", "11" * 32))},
        {"version": 1},
        {"version": 3},
    ],
)
def test_a_header_in_another_than_its_one_form_is_refused(changes: dict[str, Any]):
    with pytest.raises(ProofError):
        decode_program_header(replace(program_header(), **changes).encode())


def test_a_commitment_is_read_by_the_version_of_its_header():
    made = program_header(ended=Ended.WALL_TIME, code=9)
    assert read_commitment(commit(made, transcript()), NODE_KEYS.public_key) == made
