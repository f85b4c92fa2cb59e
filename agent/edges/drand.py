"""BLS signatures over BLS12-381, as drand makes them, by arkworks (https://github.com/ethereum/py-arkworks-bls12381).

An optional part (`gpu-agent[drand]`): epochs, the coordinator's own beacon, need none of it.
"""

from __future__ import annotations

import importlib.util

import structlog

from agent.core.proof.beacon import Bls

_G2_BYTES = 96


def load_bls() -> Bls | None:
    """The check; None where the optional part is not installed. The library itself is loaded at the first check."""
    return _verifies if importlib.util.find_spec("py_arkworks_bls12381") else None


def believe(_suite: str, _public_key: bytes, _message: bytes, _signature: bytes) -> bool:
    """In place of the check, for a node that has none: who does not open loses its stake, and who opens for a made-up
    round shows no more than leaves of a task whose prompt the coordinator gave it. Said in the log each time.
    """
    structlog.get_logger("proof").warning(
        "drand.unchecked",
        detail="round, chain and value are as promised; whether drand signed it cannot be told here",
        remedy="Install gpu-agent[drand]",
    )
    return True


def _verifies(suite: str, public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether e(signature, generator) = e(hash, key); keys stand in the group in which signatures do not.

    Both points are decoded in their one compressed form and must lie in the subgroup of prime order.
    """
    from py_arkworks_bls12381 import GT, G1Point, G2Point  # noqa: PLC0415  (an optional part)

    tag = suite.encode()
    try:
        if len(public_key) == _G2_BYTES:
            in_g1 = [G1Point.from_compressed_bytes(signature), -G1Point.hash_to_curve(message, tag)]
            return GT.pairing_check(in_g1, [G2Point(), G2Point.from_compressed_bytes(public_key)])
        in_g2 = [G2Point.from_compressed_bytes(signature), -G2Point.hash_to_curve(message, tag)]
        return GT.pairing_check([G1Point(), G1Point.from_compressed_bytes(public_key)], in_g2)
    except ValueError:  # no point of the curve, or not in the subgroup
        return False
