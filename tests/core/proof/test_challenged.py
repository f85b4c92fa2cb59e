"""Which challenges a node answers with leaves, and what it says to the others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.core import wire
from agent.core.model import Blob, Commitment, Outcome, Reason, VerifyInput
from agent.core.proof.beacon import kept
from agent.core.proof.challenged import Papers, objection
from agent.core.proof.drawing import drawn_leaves, leaves_until
from tests import builders
from tests.fakes.examiner import BEACON, SECRET, challenge, promise

ROOT, LEAVES = "ab" * 32, 40
COMMITMENT = Commitment(header="", root=ROOT, leaves=LEAVES)


def papers(
    *, told: wire.BeaconPromise | None = None, commitment: Commitment | None = COMMITMENT, **offer: Any
) -> Papers:
    offered = builders.offer(**offer)
    key = offered.key
    common = {"node_id": "n", "task_id": key.task_id, "attempt": key.attempt, "fence": key.fence, "idem_key": "i"}
    return Papers(
        offered,
        wire.ResultBody(**common, outcome=Outcome.SUCCEEDED, reason=Reason.COMPLETED, commitment=commitment),
        wire.ReceiptBody(
            **common,
            receipt_id="r",
            status=wire.ReceiptStatus.ACCEPTED,
            result_sha256="",
            received_at=0,
            beacon=told,
        ),
    )


def asked(**changes: Any) -> wire.Challenge:
    return challenge(builders.offer().key, **changes)


def drawn(level: int) -> tuple[int, ...]:
    return leaves_until(SECRET, ROOT, "task-1", LEAVES, 2, level)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_what_the_promised_beacon_draws_is_opened_whole_or_as_drawn_at_any_level(level: int) -> None:
    told = papers(told=promise())
    assert objection(asked(level=level), told, kept) == ""
    assert objection(asked(level=level, leaves=drawn(level)), told, kept) == ""
    assert objection(asked(level=level, leaves=drawn(level)[::-1]), told, kept) == ""


OTHER = msgspec.structs.replace(BEACON, value="00" * 32)
LIES: dict[str, tuple[dict[str, Any], wire.BeaconPromise | None, str]] = {
    "no promise": ({}, None, "promised no beacon"),
    "no beacon": ({"beacon": None}, promise(), "no beacon is shown"),
    "another secret": ({"beacon": OTHER}, promise(), "not the promised one"),
    "another round": ({"beacon": msgspec.structs.replace(BEACON, round=4)}, promise(), "not the promised one"),
    "another source": (
        {"beacon": msgspec.structs.replace(BEACON, source=wire.BeaconSource.DRAND)},
        promise(),
        "not the promised one",
    ),
    "no hex": ({"beacon": msgspec.structs.replace(BEACON, value="zz" * 32)}, promise(), "not the promised one"),
    "not drawn": ({}, promise(rate_micros=0), "does not draw this task"),
    "one leaf more": ({"leaves": (*drawn(0), 5)}, promise(), "draws other leaves at level 0"),
    "one leaf less": ({"leaves": drawn(0)[1:]}, promise(), "draws other leaves at level 0"),
    "leaves of another level": ({"leaves": drawn(2), "level": 1}, promise(), "draws other leaves at level 1"),
    "leaves of one level alone": (
        {"leaves": drawn_leaves(SECRET, ROOT, "task-1", LEAVES, 2, 2), "level": 2},
        promise(),
        "draws other leaves at level 2",
    ),
    "a level without measure": ({"leaves": (0,), "level": 2**53 - 1}, promise(), "is beyond"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_coordinator_that_lies_about_the_draw_learns_nothing_but_why(lie: str) -> None:
    changes, told, words = LIES[lie]
    assert words in objection(asked(**changes), papers(told=told), kept)


def test_an_attempt_that_committed_to_nothing_is_not_opened() -> None:
    assert "did not succeed" in objection(asked(), papers(told=promise(), commitment=None), kept)


def test_only_a_verdict_is_revealed_without_a_beacon() -> None:
    reveal = asked(kind=wire.ChallengeKind.REVEAL, beacon=None)
    assert "only verdicts are revealed" in objection(reveal, papers(told=promise()), kept)
    checking = builders.task(task_input=VerifyInput(evidence=Blob(sha256="00" * 32, bytes=1)))
    assert objection(reveal, papers(spec=checking), kept) == ""
