"""A bundle with leaves is held to the commitment, and to the beacon that drew them: nobody shows only the best."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.errors import ProofError
from agent.core.payloads import Beacon, BeaconPromise, BeaconSource
from agent.core.proof.commitment import commit
from agent.core.proof.drand import QUICKNET
from agent.core.proof.drawing import drawn_leaves, is_drawn
from agent.core.proof.leaves import join_leaves
from agent.core.proof.opening import open_leaves
from agent.core.proof.receipt import Verdict, examine
from agent.core.proof.transcript import TranscriptBuilder
from agent.edges.drand import load_bls
from agent.edges.signing import verify
from tests.core.proof.making import bundle, header, token, transcript
from tests.core.proof.test_beacon import ROUNDS, recorded

MADE = transcript(400)
SECRET = hashlib.sha256(b"of the epoch").digest()
PROMISE = BeaconPromise(
    source=BeaconSource.EPOCH,
    round=4,
    commitment=hashlib.sha256(SECRET).hexdigest(),
    rate_micros=1_000_000,
    leaves=4,
)
BEACON = Beacon(source=BeaconSource.EPOCH, round=4, value=SECRET.hex())
DRAWN = drawn_leaves(SECRET, MADE.root, "task-1", len(MADE.leaves), 4)
SHOWN = open_leaves(MADE.leaves, DRAWN)


def made(promise: BeaconPromise | None = PROMISE, received_at: int = 1_700_000_000) -> wire.ReceiptBundle:
    return bundle(
        result={"commitment": commit(header(MADE), MADE)}, receipt={"beacon": promise, "received_at": received_at}
    )


def examined(of: wire.ReceiptBundle, **parts: Any) -> Verdict:
    return examine(msgspec.structs.replace(of, **parts), verify, bls=load_bls())


def failed(of: wire.ReceiptBundle, **parts: Any) -> str:
    verdict = examined(of, **parts)
    assert verdict.failed is not None
    assert verdict.error is not None
    assert verdict.failed.name == verdict.error.check
    return verdict.error.check


GOOD = made()


def test_drawn_leaves_and_their_beacon_pass() -> None:
    assert len(DRAWN) == 4
    verdict = examined(GOOD, opening=SHOWN, beacon=BEACON)
    assert [check.name for check in verdict.passed][-3:] == ["opening", "beacon", "draw"]
    assert verdict.case is not None
    assert verdict.case.draw == (True, DRAWN, 0)
    assert verdict.case.opened is not None
    assert verdict.case.opened.opened == DRAWN


def test_leaves_without_a_beacon_are_checked_by_themselves() -> None:
    assert examined(GOOD, opening=SHOWN).passed[-1].name == "opening"
    assert examined(made(None), opening=SHOWN).passed[-1].name == "opening"


def test_a_beacon_without_leaves_says_what_it_drew() -> None:
    verdict = examined(GOOD, beacon=BEACON)
    assert verdict.passed[-1].name == "beacon"
    assert verdict.case is not None
    assert verdict.case.draw == (True, DRAWN, 0)


def test_all_leaves_are_more_than_any_draw() -> None:
    assert examined(GOOD, opening=open_leaves(MADE.leaves), beacon=BEACON).error is None


def test_the_best_leaves_instead_of_the_drawn_ones_are_refused() -> None:
    others = {leaf for leaf in range(len(MADE.leaves) - 1) if leaf not in DRAWN}
    assert failed(GOOD, opening=open_leaves(MADE.leaves, others), beacon=BEACON) == "draw"
    assert failed(GOOD, opening=open_leaves(MADE.leaves, DRAWN[:-1]), beacon=BEACON) == "draw"


@pytest.mark.parametrize("level", [1, 2])
def test_leaves_that_were_drawn_at_a_closer_look_pass_too(level: int) -> None:
    leaves = drawn_leaves(SECRET, MADE.root, "task-1", len(MADE.leaves), 4, level)
    verdict = examined(GOOD, opening=open_leaves(MADE.leaves, leaves), beacon=BEACON)
    assert verdict.error is None
    assert verdict.case is not None
    assert verdict.case.draw is not None
    assert set(verdict.case.draw.leaves) <= set(leaves)
    assert verdict.case.draw.level == (level if set(DRAWN) - set(leaves) else 0)
    assert failed(GOOD, opening=open_leaves(MADE.leaves, leaves[1:]), beacon=BEACON) == "draw"


def test_leaves_of_another_task_are_refused() -> None:
    assert failed(GOOD, opening=open_leaves(transcript(399).leaves, DRAWN)) == "opening"


def test_leaves_that_are_not_of_the_committed_kind_are_refused() -> None:
    builder = TranscriptBuilder(3)
    builder.add_rows([[]])
    for number in range(40):
        builder.add(token(number))
    padded = builder.finish()
    of = bundle(result={"commitment": commit(header(MADE), padded)})
    for verdict in (
        examined(of, opening=open_leaves(padded.leaves)),
        examine(of, verify, transcript=join_leaves(padded.leaves)),
    ):
        assert verdict.error is not None
        assert "row, tokens are no proof of the kind tokens_f32" in verdict.error.message


@pytest.mark.parametrize("part", [b"", b"\x01", SHOWN[:-1], SHOWN + b"\x00", SHOWN.replace(b"\x01", b"\x02", 1)])
def test_half_an_opening_or_none_is_refused(part: bytes) -> None:
    assert failed(GOOD, opening=part) == "opening"


def test_a_changed_log_probability_is_refused() -> None:
    at = SHOWN.rindex(MADE.leaves[DRAWN[1]]) + 200
    assert failed(GOOD, opening=SHOWN[:at] + bytes([SHOWN[at] ^ 1]) + SHOWN[at + 1 :]) == "opening"


@pytest.mark.parametrize(
    "other",
    [
        Beacon(source=BeaconSource.EPOCH, round=4, value="ab" * 32),
        Beacon(source=BeaconSource.EPOCH, round=5, value=SECRET.hex()),
        Beacon(source=BeaconSource.DRAND, round=4, value=SECRET.hex()),
        Beacon(source=BeaconSource.EPOCH, round=4, value=SECRET.hex().upper()),
    ],
)
def test_another_beacon_than_the_promised_one_is_refused(other: Beacon) -> None:
    assert failed(GOOD, opening=SHOWN, beacon=other) == "beacon"


def test_a_beacon_that_nobody_promised_is_refused() -> None:
    assert failed(made(None), opening=SHOWN, beacon=BEACON) == "beacon"


def test_a_promise_that_was_changed_afterwards_is_refused() -> None:
    """The coordinator signed it: a secret that draws the good leaves cannot be put in its place."""
    payload = GOOD.receipt.payload.replace(PROMISE.commitment, hashlib.sha256(b"mine").hexdigest())
    assert failed(GOOD, receipt=msgspec.structs.replace(GOOD.receipt, payload=payload)) == "receipt_signature"


def test_a_result_that_was_not_drawn_need_not_show_anything() -> None:
    rarely = msgspec.structs.replace(PROMISE, rate_micros=1)
    assert not is_drawn(SECRET, MADE.root, "task-1", 1)
    verdict = examined(made(rarely), opening=open_leaves(MADE.leaves, (0,)), beacon=BEACON)
    assert verdict.error is None
    assert verdict.case is not None
    assert verdict.case.draw == (False, (), 0)


def test_a_round_of_drand_counts_when_it_was_still_to_come() -> None:
    promise, beacon = recorded(ROUNDS[0])
    in_time = QUICKNET.time_of(promise.round) - 2 * QUICKNET.period_s
    promise = msgspec.structs.replace(promise, rate_micros=1_000_000, leaves=4)
    drawn = drawn_leaves(bytes.fromhex(beacon.value), MADE.root, "task-1", len(MADE.leaves), 4)
    shown = open_leaves(MADE.leaves, drawn)
    assert examined(made(promise, in_time), opening=shown, beacon=beacon).passed[-1].name == "draw"
    assert failed(made(promise, in_time + 1), opening=shown, beacon=beacon) == "beacon"
    assert failed(made(promise, in_time), opening=shown, beacon=msgspec.structs.replace(beacon, value="ab" * 32)) == (
        "beacon"
    )


def test_without_the_library_a_round_of_drand_is_left_aside_and_never_believed() -> None:
    promise, beacon = recorded(ROUNDS[0])
    verdict = examine(msgspec.structs.replace(made(promise), opening=SHOWN, beacon=beacon), verify)
    assert verdict.passed[-1].name == "opening"
    assert verdict.case is not None
    assert verdict.case.draw is None


def test_transcript_and_opening_must_both_hold() -> None:
    kept = join_leaves(MADE.leaves)
    both = msgspec.structs.replace(GOOD, opening=SHOWN)
    verdict = examine(both, verify, transcript=kept)
    assert [check.name for check in verdict.passed][-2:] == ["transcript", "opening"]
    assert verdict.case is not None
    assert len(verdict.case.leaves) == len(MADE.leaves)
    assert examine(both, verify, transcript=kept[:-1]).error is not None
    assert examine(msgspec.structs.replace(GOOD, opening=SHOWN[:-1]), verify, transcript=kept).error is not None


def test_whoever_reads_the_leaves_later_is_told_later() -> None:
    verdict = examine(msgspec.structs.replace(GOOD, opening=SHOWN[:-1]), verify, opening=False)
    assert verdict.error is None
    assert verdict.case is not None
    with pytest.raises(ProofError, match="bytes are announced") as caught:
        _ = verdict.case.opened
    assert caught.value.check == "opening"
