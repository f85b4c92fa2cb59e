"""Chains of drand, the public beacon of the League of Entropy: their keys, their times, and what they sign.

Sources: drand/drand, common/chain/info.go (what a chain's hash covers) and crypto/schemes.go (what is signed).
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple


class Chain(NamedTuple):
    """What is fixed of a chain for ever; `hash` covers all of it."""

    name: str
    hash: str
    """Hex."""
    public_key: str
    """Hex, compressed: 96 bytes where signatures are in G1, 48 where they are in G2."""
    suite: str
    """Domain separation tag of hashing to the curve (RFC 9380)."""
    genesis_at: int
    """Unix seconds of round 1."""
    genesis_seed: str
    """Hex."""
    period_s: int
    chained: bool
    """Each signature also covers the one before."""

    def time_of(self, number: int) -> int:
        """Unix seconds at which a round becomes known."""
        return self.genesis_at + (number - 1) * self.period_s

    def round_to_promise(self, received_at: int) -> int:
        """The first round that is at least two periods away: nobody knows it yet, whoever's clock is a little late."""
        since = received_at + 2 * self.period_s - self.genesis_at
        return max(1, -(-since // self.period_s) + 1)

    def message(self, number: int, previous: bytes = b"") -> bytes:
        """What the chain signs in a round; `previous` is the signature before it, of a chained one."""
        return hashlib.sha256((previous if self.chained else b"") + number.to_bytes(8, "big")).digest()


QUICKNET: Final = Chain(
    name="quicknet",
    hash="52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971",
    public_key=(
        "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d106451"
        "0d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
    ),
    suite="BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_",
    genesis_at=1_692_803_367,
    genesis_seed="f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e",
    period_s=3,
    chained=False,
)
DEFAULT: Final = Chain(
    name="default",
    hash="8990e7a9aaed2ffed73dbd7092123d6f289930540d7651336225dc172e51b2ce",
    public_key="868f005eb8e6e4ca0a47c8a77ceaa5309a47978a7c71bc5cce96366b5d7a569937c529eeda66c7293784a9402801af31",
    suite="BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_",
    genesis_at=1_595_431_050,
    genesis_seed="176f93498eac9ca337150b46d21dd58673ea4e3581185f869672e59fa4cb390a",
    period_s=30,
    chained=True,
)
CHAINS: Final = {chain.hash: chain for chain in (QUICKNET, DEFAULT)}
"""By hash: those that a promise may name."""
