"""Embeddings that are known to be wrong, and that only the model tells from right ones."""

from __future__ import annotations

import math
import random
import struct

import msgspec
import pytest

from agent.core import wire
from agent.core.checks.claim import Claim, without_model
from agent.core.checks.rows import check_rows, rows_of
from agent.core.checks.verdict import Metrics, Thresholds, Verdict, judge
from agent.core.model import EmbeddingInput, TaskKind, Usage
from agent.core.proof.leaves import Leaf
from agent.core.proof.opening import open_leaves
from agent.core.proof.transcript import TranscriptBuilder
from agent.devnet.core.effects import SaveSettlement
from agent.devnet.core.proofs.canaries import Canary, made_of
from agent.devnet.core.proofs.disguise import Cast, Keys
from agent.devnet.keys import verify
from tests import builders
from tests.devnet.proofs.test_canaries import NODE, claim_in
from tests.devnet.proofs.validators import RULES, Bench

Row = tuple[float, ...]
WIDEST = Thresholds(parallel=0.99)
"""The widest limit that a calibration may have."""


def rows(count: int, width: int = 64) -> tuple[Row, ...]:
    """Of length one, as an engine tells them: float32."""
    chance = random.Random(count)
    made = []
    for _ in range(count):
        row = [chance.gauss(0, 1) for _ in range(width)]
        made.append(rounded([one / math.hypot(*row) for one in row]))
    return tuple(made)


def rounded(row: list[float]) -> Row:
    return struct.unpack(f"<{len(row)}f", struct.pack(f"<{len(row)}f", *row))


class Embedded:
    """A case of an honest node's that embedded some texts."""

    def __init__(self, right: tuple[Row, ...], rate_micros: int = 1_000_000, *, output: str = "") -> None:
        self.right = right
        self.bench = Bench(msgspec.structs.replace(RULES, rate_micros=rate_micros))
        node = self.bench.opener(1)
        pool = builders.pool(kinds=(TaskKind.EMBEDDING,))
        self.bench.book.nodes[node.node_id].show(builders.fingerprint(pools=(pool,)))
        builder = TranscriptBuilder(0)
        builder.add_rows(right)
        transcript = builder.finish()
        output = output or msgspec.json.encode({"text": None, "vectors": right}).decode()
        usage = Usage(prompt_tokens=4)
        texts = tuple(f"text {number}" for number in range(len(right)))
        while not self.bench.docket.cases:
            self.bench.submit(input=EmbeddingInput(texts=texts), max_tokens=0)
            (offer,) = self.bench.pull(node)
            made = node.commitment(offer, output, usage, transcript)
            receipt = self.bench.deliver(node, node.success(offer, output, usage=usage, commitment=made))
            assert receipt.status is wire.ReceiptStatus.ACCEPTED, receipt.detail
        self.bench.turn(61.0)
        (self.case,) = self.bench.docket.cases.values()
        settlement = next(
            it.settlement
            for it in self.bench.writes
            if isinstance(it, SaveSettlement) and it.settlement.task_id == self.case.task_id
        )
        self.bundle = wire.ReceiptBundle(
            coordinator_key=self.bench.keys.public,
            offer=settlement.offer,
            result=settlement.result,
            receipt=settlement.receipt,
            output=output,
            opening=open_leaves(transcript.leaves),
            beacon=self.case.beacon,
        )

    def canary(self, chance: int = 1) -> Canary | None:
        keys = self.bench.keys
        ours, its = Keys(keys.public, keys.sign), Keys(NODE.public, NODE.sign)
        return made_of(self.case, self.bundle, verify, Cast(ours, its, random.Random(chance).randbytes(32)))

    def claim(self, canary: Canary | None) -> Claim:
        assert canary is not None
        return claim_in(canary.bundle, self.bench.keys.public)


def shown(claim: Claim) -> tuple[Row, ...]:
    return rows_of([leaf for leaf in claim.leaves if isinstance(leaf, Leaf)])


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("rate", [1_000_000, 100_000])
def test_half_of_the_rows_are_wrong_and_only_the_model_tells(count: int, rate: int) -> None:
    source = Embedded(rows(count), rate)
    claim = source.claim(source.canary())
    assert judge(without_model(claim), Thresholds()).verdict is Verdict.PASS
    assert claim.vectors == shown(claim)
    found = check_rows(shown(claim), source.right)
    wrong = [cosine for cosine in found.cosines if cosine < 0.95]
    assert len(wrong) == min(max(-(-count // 2), 2), count)
    assert wrong == pytest.approx([0.9] * len(wrong), abs=0.01)
    assert all(cosine > 0.999 for cosine in found.cosines if cosine not in wrong)
    assert judge(Metrics(rows=found), WIDEST).verdict is (Verdict.FAIL if count > 1 else Verdict.SUSPECT)


def test_a_wrong_row_is_as_long_as_the_right_one_and_has_numbers_like_its_own() -> None:
    source = Embedded(rows(4))
    for row in shown(source.claim(source.canary())):
        assert math.hypot(*row) == pytest.approx(1.0, abs=0.01)
        assert max(map(abs, row)) < 0.6


def test_what_is_wrong_follows_chance() -> None:
    source = Embedded(rows(8))
    made = [check_rows(shown(source.claim(source.canary(chance))), source.right).cosines for chance in (1, 2, 3)]
    assert len({tuple(cosine < 0.95 for cosine in cosines) for cosines in made}) > 1


@pytest.mark.parametrize(
    ("right", "output"),
    [
        (rows(2), msgspec.json.format(msgspec.json.encode({"vectors": rows(2)}), indent=1).decode()),
        (rows(2, width=3), ""),
    ],
    ids=["written in another way", "too short"],
)
def test_where_it_would_show_there_is_none(right: tuple[Row, ...], output: str) -> None:
    assert Embedded(right, output=output).canary() is None


def test_numbers_with_fewer_digits_than_ours_would_have_make_none() -> None:
    right = tuple(rounded([float(f"{one:.6f}") for one in row]) for row in rows(2))
    told = [[float(f"{one:.6f}") for one in row] for row in right]
    source = Embedded(right, output=msgspec.json.encode({"vectors": told}).decode())
    assert source.canary() is None
