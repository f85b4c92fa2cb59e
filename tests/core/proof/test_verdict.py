"""Verdicts under seal: the header and the leaf are those of the specification, and nothing else is read as one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from agent.core import admission
from agent.core.errors import ProofError
from agent.core.model import Blob, Reason, TaskKind, VerifyInput
from agent.core.payloads import RecomputedLeaf, VerdictBody
from agent.core.proof.commitment import check_header, commit, read_commitment
from agent.core.proof.leaves import check_leaves
from agent.core.proof.sealing import MAX_VERDICT_BYTES, leaf_of, output_of, read_verdict, sealed
from agent.core.proof.verdict import MOST_LEAVES, VerdictHeader, decode_verdict_header, verdict_header
from tests import builders
from tests.core.proof import second_reader
from tests.core.proof.making import NODE_KEYS, program_offer, transcript

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "proof" / "verdict.json").read_text())
HEADER = msgspec.convert(GOLDEN["header"], VerdictHeader)
SAID = msgspec.convert(GOLDEN["said"], VerdictBody)
ASKED = VerifyInput(evidence=Blob(sha256="77" * 32, bytes=1000), leaves=(0, 7))


def offer(asked: VerifyInput = ASKED, **changes: Any):
    return builders.offer(spec=builders.task(task_input=asked, max_tokens=0), **changes)


def header_for(**changes: Any) -> VerdictHeader:
    made = verdict_header(offer(), builders.pool(), node_key=NODE_KEYS.public_key, output_sha256="44" * 32)
    return replace(made, **changes)


def test_header_and_leaf_are_the_specified_ones() -> None:
    assert HEADER.encode().hex() == GOLDEN["header_bytes"]
    assert decode_verdict_header(HEADER.encode()) == HEADER
    made = sealed(SAID)
    assert [leaf.hex() for leaf in made.leaves] == GOLDEN["leaves"]
    assert made.root == GOLDEN["root"]
    assert made.proof_kind == HEADER.proof_kind
    check_leaves(made.leaves, commit(HEADER, made))
    assert read_verdict(made.leaves) == SAID
    assert json.loads(output_of(made.root)) == {"sealed": GOLDEN["root"]}


def test_a_second_reader_agrees_on_what_is_a_header_and_what_is_none() -> None:
    chance = random.Random(3)
    for _ in range(500):
        leaves = tuple(chance.getrandbits(64) for _ in range(chance.randrange(4)))
        made = replace(
            HEADER, leaves=leaves, engine_digest=chance.choice(("", "ab" * 32)), fence=chance.getrandbits(64)
        )
        raw = made.encode()
        assert second_reader.read_verdict_header(raw) == {**msgspec.to_builtins(made), "leaves": list(leaves)}
        damaged = bytearray(raw)
        damaged[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        assert read(decode_verdict_header, bytes(damaged)) == read(second_reader.read_verdict_header, bytes(damaged))


def read(reader: Any, raw: bytes) -> Any:
    try:
        return {**(told := msgspec.to_builtins(reader(raw))), "leaves": list(told["leaves"])}
    except (ProofError, second_reader.RefusedError):
        return "refused"


def test_a_commitment_is_to_what_the_offer_asked() -> None:
    header = read_commitment(commit(header_for(), sealed(SAID)), NODE_KEYS.public_key)
    check_header(header, offer())
    other = VerifyInput(evidence=Blob(sha256="78" * 32, bytes=1000), leaves=(0,))
    for wrong in (offer(other), offer(fence=2), offer(nonce="00" * 32), program_offer(), builders.offer()):
        with pytest.raises(ProofError) as raised:
            check_header(header, wrong)
        assert raised.value.check == "header_offer"


def test_a_long_verdict_still_is_one_leaf() -> None:
    recomputed = tuple(RecomputedLeaf(leaf=leaf, sha256="ab" * 32) for leaf in range(3000))
    body = replace(SAID, recomputed=recomputed, reasons=("ü" * 300,) * 16)
    made = sealed(body)
    assert len(made.leaves) == 2
    assert read_verdict(made.leaves) == body


def test_a_verdict_beyond_its_size_is_not_written() -> None:
    with pytest.raises(ProofError, match="at most"):
        leaf_of(replace(SAID, metrics="x" * MAX_VERDICT_BYTES))


def test_other_leaves_are_no_verdict() -> None:
    text = sealed(SAID).leaves
    for leaves in ((), text[:1], (*text, *text), transcript(2).leaves, (b"", b"")):
        with pytest.raises(ProofError) as raised:
            read_verdict(leaves)
        assert raised.value.check == "verdict"


def test_the_salt_alone_makes_another_root() -> None:
    assert sealed(SAID).root != sealed(replace(SAID, salt="00" * 32)).root


@pytest.mark.parametrize(
    "asked",
    [
        VerifyInput(evidence=Blob(sha256="77" * 32, bytes=0)),
        VerifyInput(evidence=Blob(sha256="77" * 32, bytes=(64 << 20) + 1)),
        VerifyInput(evidence=Blob(sha256="../etc/passwd", bytes=10)),
        VerifyInput(evidence=Blob(sha256="77" * 32, bytes=10), leaves=(1, 0)),
        VerifyInput(evidence=Blob(sha256="77" * 32, bytes=10), leaves=(1, 1)),
        VerifyInput(evidence=Blob(sha256="77" * 32, bytes=10), leaves=tuple(range(MOST_LEAVES + 1))),
    ],
    ids=["nothing", "too much", "no digest", "out of order", "twice", "too many"],
)
def test_a_check_that_cannot_be_done_is_declined(asked: VerifyInput) -> None:
    no = admission.judge_offer(offer(asked), builders.NODE)
    assert no is not None
    assert no.reason is Reason.MALFORMED_OFFER
    assert admission.judge_offer(offer(), builders.NODE) is None


def test_only_a_pool_whose_owner_opted_in_takes_checks() -> None:
    task = offer().task
    plain, ready = builders.pool(), builders.pool(kinds=(TaskKind.CHAT, TaskKind.VERIFY))
    assert isinstance(no := admission.place(task, [plain], {"main": 1}), admission.No)
    assert no.reason is Reason.UNSUPPORTED_KIND
    assert admission.place(task, [ready], {"main": 1}) is ready
