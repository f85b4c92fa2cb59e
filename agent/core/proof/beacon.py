"""Whether a beacon is the one that was promised. Pure: the BLS signature check is passed in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from itertools import count
from typing import NamedTuple

from agent.core.errors import ProofError
from agent.core.model import Commitment
from agent.core.payloads import Beacon, BeaconPromise, BeaconSource, ReceiptBody
from agent.core.proof.drand import CHAINS, Chain
from agent.core.proof.drawing import drawn_leaves, is_drawn

Bls = Callable[[str, bytes, bytes, bytes], bool]
"""(suite, public key, message, signature) → whether it verifies; never raises on malformed input."""
_VALUE = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"([0-9a-f]{96}){1,2}")


class Draw(NamedTuple):
    """What a beacon decided about one result."""

    challenged: bool
    leaves: tuple[int, ...] = ()
    """To be repeated."""
    level: int = 0
    """How often the case was escalated: each time the leaves are drawn anew, and twice as many."""


def checkable(beacon: Beacon | None, bls: Bls | None) -> bool:
    """Whether it can be told here that a beacon is genuine."""
    return beacon is not None and (beacon.source is BeaconSource.EPOCH or bls is not None)


def draw_of(
    receipt: ReceiptBody, commitment: Commitment, beacon: Beacon | None, bls: Bls | None, shown: Collection[int] = ()
) -> Draw | None:
    """What `beacon` draws of a result; None when there is none, or none that can be checked here.

    Of the first level whose leaves are all `shown`; where there is none, of level 0. Raises ProofError("beacon")
    when it is not the one that the receipt promised, or was known too early.
    """
    if beacon is None or not checkable(beacon, bls):
        return None
    promise = receipt.beacon
    if promise is None:
        raise ProofError("beacon", "the receipt promised no beacon: this result was not to be challenged")
    kept(promise, beacon, bls)
    if promise.source is BeaconSource.DRAND:
        _unknown_before(chain_of(promise), promise.round, receipt.received_at)
    value, task_id = bytes.fromhex(beacon.value), receipt.task_id
    if not is_drawn(value, commitment.root, task_id, promise.rate_micros):
        return Draw(challenged=False)
    first, *escalated = _levels(value, promise, commitment, task_id, shown)
    return next((draw for draw in (first, *escalated) if set(draw.leaves) <= set(shown)), first)


def _levels(
    value: bytes, promise: BeaconPromise, commitment: Commitment, task_id: str, shown: Collection[int]
) -> Iterator[Draw]:
    """Level 0, and those above it that draw no more leaves than are shown."""
    for level in count():
        leaves = drawn_leaves(value, commitment.root, task_id, commitment.leaves, promise.leaves, level)
        if level and len(leaves) > len(shown):
            return
        yield Draw(True, leaves, level)
        if len(leaves) >= commitment.leaves - 1:
            return


def _unknown_before(chain: Chain, number: int, received_at: int) -> None:
    if number < chain.round_to_promise(received_at):
        raise ProofError("beacon", f"round {number} was promised when it was nearly known, or known already")


def known_at(promise: BeaconPromise, at: float) -> bool:
    """Whether the promised round was public already at `at`, in Unix seconds; of an epoch that cannot be told."""
    chain = CHAINS.get(promise.commitment) if promise.source is BeaconSource.DRAND else None
    return chain is not None and chain.time_of(promise.round) <= at


def kept(promise: BeaconPromise, beacon: Beacon, bls: Bls | None = None) -> None:
    """Whether `beacon` is what was promised. Raises ProofError("beacon").

    `bls` is needed for drand's alone; without it none of them holds. With it, it takes a few milliseconds.
    """
    if (beacon.source, beacon.round) != (promise.source, promise.round):
        raise ProofError(
            "beacon",
            f"round {promise.round} of {promise.source.value} was promised, "
            f"this is {beacon.round} of {beacon.source.value}",
        )
    if not _VALUE.fullmatch(beacon.value):
        raise ProofError("beacon", "the value is not 32 bytes in lower-case hex")
    if promise.source is BeaconSource.EPOCH:
        if _sha256(beacon.value) != promise.commitment:
            raise ProofError("beacon", "this is not the secret whose digest was promised")
        return
    check_drand(chain_of(promise), beacon, bls)


def chain_of(promise: BeaconPromise) -> Chain:
    """The chain of drand that a promise names. Raises ProofError("beacon") for one whose key is not known here."""
    if promise.source is not BeaconSource.DRAND or promise.commitment not in CHAINS:
        known = ", ".join(f"{chain.name} ({chain.hash[:8]}…)" for chain in CHAINS.values())
        raise ProofError("beacon", f"{promise.commitment[:16]!r}… is no chain of drand that is known here: {known}")
    return CHAINS[promise.commitment]


def check_drand(chain: Chain, beacon: Beacon, bls: Bls | None) -> None:
    """Whether the chain's key signed this round, and its randomness follows from that. Raises ProofError("beacon")."""
    if bls is None:
        raise ProofError("beacon", "drand's signatures cannot be checked here: install gpu-agent[drand]")
    if not _SIGNATURE.fullmatch(beacon.signature) or (chain.chained and not _SIGNATURE.fullmatch(beacon.previous)):
        raise ProofError("beacon", "the signature is not 48 or 96 bytes in lower-case hex")
    if _sha256(beacon.signature) != beacon.value:
        raise ProofError("beacon", "the randomness is not the digest of the signature")
    message = chain.message(beacon.round, bytes.fromhex(beacon.previous) if chain.chained else b"")
    if not bls(chain.suite, bytes.fromhex(chain.public_key), message, bytes.fromhex(beacon.signature)):
        raise ProofError("beacon", f"drand's {chain.name} chain did not sign this as round {beacon.round}")


def _sha256(value: str) -> str:
    return hashlib.sha256(bytes.fromhex(value)).hexdigest()
