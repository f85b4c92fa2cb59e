"""Signatures that cost next to nothing: a keyed digest that whoever knows the public key can make. No security."""

from __future__ import annotations

import hashlib
from functools import partial

from agent.devnet.core.proofs.disguise import Keys


def key_of(name: str) -> str:
    """64 hex digits."""
    return hashlib.sha256(name.encode()).hexdigest()


def sign(key: str, digest: bytes) -> str:
    """128 hex digits."""
    return hashlib.blake2b(key.encode() + digest).hexdigest()


def verify(key: str, signature: str, digest: bytes) -> bool:
    return sign(key, digest) == signature


def made_up() -> Keys:
    """Of a node that does not exist."""
    key = key_of("nobody")
    return Keys(key, partial(sign, key))


class SimIdentity:
    """Implements ports.Identity."""

    def __init__(self, node_id: str, key: str, coordinator_key: str) -> None:
        self.node_id = node_id
        self.public_key = key
        self.coordinator_key = coordinator_key
        self.sign = partial(sign, key)

    def verify(self, key: str, signature: str, digest: bytes) -> bool:
        return verify(key, signature, digest)
