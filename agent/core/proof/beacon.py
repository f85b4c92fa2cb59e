"""Whether a beacon is the one that was promised. Pure: the BLS signature check is passed in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from agent.core.errors import ProofError
from agent.core.payloads import Beacon, BeaconPromise, BeaconSource
from agent.core.proof.drand import CHAINS, Chain

Bls = Callable[[str, bytes, bytes, bytes], bool]
"""(suite, public key, message, signature) → whether it verifies; never raises on malformed input."""
_VALUE = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"([0-9a-f]{96}){1,2}")


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
