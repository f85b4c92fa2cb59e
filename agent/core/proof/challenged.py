"""Whether a challenge may be asked: a coordinator that shows no beacon, or another one, learns nothing of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agent.core import wire
from agent.core.errors import ProofError
from agent.core.model import TaskKind
from agent.core.proof.drawing import is_drawn, leaves_until

MAX_LEVEL = 12
"""Each doubles the leaves: of four there are 16,384 then, as many as one check may name."""

Kept = Callable[[wire.BeaconPromise, wire.Beacon], None]
"""`core.proof.beacon.kept`: raises ProofError for a beacon that is not the promised one."""


class Papers(NamedTuple):
    """What was signed about one attempt."""

    offer: wire.OfferBody
    result: wire.ResultBody
    receipt: wire.ReceiptBody


def objection(challenge: wire.Challenge, papers: Papers, kept: Kept) -> str:
    """Why `challenge` is not answered with leaves, in words for the coordinator's operator; empty when it is.

    Draws leaves, which for a transcript of a hundred thousand takes a second.
    """
    if papers.result.commitment is None:
        return "nothing was committed to: the attempt did not succeed"
    if challenge.kind is wire.ChallengeKind.REVEAL:
        return _unrevealable(papers)
    return _undrawn(challenge, papers, kept)


def _unrevealable(papers: Papers) -> str:
    """A customer's transcript is opened for the beacon alone."""
    if papers.offer.task.kind is not TaskKind.VERIFY:
        return f"only verdicts are revealed, and this is a task of the kind {papers.offer.task.kind.value}"
    return ""


def _undrawn(challenge: wire.Challenge, papers: Papers, kept: Kept) -> str:
    promise, beacon = papers.receipt.beacon, challenge.beacon
    if promise is None:
        return "the receipt promised no beacon: this result is not to be challenged"
    if beacon is None:
        return "no beacon is shown"
    try:
        kept(promise, beacon)
    except ProofError as error:
        return f"the beacon is not the promised one: {error.message}"
    return _spared(challenge, papers, promise, bytes.fromhex(beacon.value))


def _spared(challenge: wire.Challenge, papers: Papers, promise: wire.BeaconPromise, value: bytes) -> str:
    """Why the promised beacon's `value` does not ask for this."""
    commitment, task_id, level = papers.result.commitment, papers.result.task_id, challenge.level
    assert commitment is not None
    if not is_drawn(value, commitment.root, task_id, promise.rate_micros):
        return f"the beacon does not draw this task at {promise.rate_micros} in a million"
    if not challenge.leaves:
        return ""
    if level > MAX_LEVEL:
        return f"level {level} is beyond {MAX_LEVEL}"
    drawn = leaves_until(value, commitment.root, task_id, commitment.leaves, promise.leaves, level)
    return "" if set(challenge.leaves) == set(drawn) else f"the beacon draws other leaves at level {level}"
