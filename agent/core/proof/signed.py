"""Signatures over exact bytes under a domain tag. Pure: the Ed25519 primitive is passed in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from agent.core.errors import ProofError
from agent.core.model import Batch, Signed
from agent.core.proof.merkle import leaf_hash, root_and_paths, root_over
from agent.core.wire import Role

Sign = Callable[[bytes], str]
"""Digest (32 bytes) → Ed25519 signature, hex."""
Verify = Callable[[str, str, bytes], bool]
"""(public key hex, signature hex, digest) → whether it verifies; never raises on malformed input.

Ask it through `verifies`, which holds every implementation to one spelling."""
_KEY = _HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
MAX_BATCH = 1024
"""Payloads under one signature; ten siblings of path each."""


def digest(role: Role, *parts: bytes) -> bytes:
    """SHA-256 over the domain tag and length-prefixed parts (u32 little-endian), so that no two splits collide."""
    state = hashlib.sha256(role.encode() + b"\x00")
    for part in parts:
        state.update(len(part).to_bytes(4, "little"))
        state.update(part)
    return state.digest()


def verifies(verify: Verify, key: str, signature: str, signed: bytes) -> bool:
    """Whether `key` signed the digest `signed`, both in their one spelling, lower-case hex.

    A primitive that also reads upper case or blanks would accept what another refuses: paid for, yet not provable.
    """
    return bool(_KEY.fullmatch(key) and _SIGNATURE.fullmatch(signature)) and verify(key, signature, signed)


def seal(role: Role, payload: bytes, key: str, sign: Sign) -> Signed:
    """Sign `payload` (JSON bytes) for one purpose."""
    return Signed(payload=payload.decode(), key=key, signature=sign(digest(role, payload)))


def seal_all(role: Role, payloads: Sequence[bytes], key: str, sign: Sign) -> list[Signed]:
    """Sign payloads for one purpose with one signature, over the root of their Merkle tree.

    Each stands by itself afterwards. One payload alone is signed as by `seal`. Ed25519 costs some 35 µs to make and 120
    to check, a hash below 1: that is what a batch saves, on both sides.
    """
    if len(payloads) <= 1:
        return [seal(role, payload, key, sign) for payload in payloads]
    root, paths = root_and_paths([leaf_hash(digest(role, payload)) for payload in payloads])
    signature = sign(digest(Role.BATCH, root))
    return [
        Signed(
            payload=payload.decode(),
            key=key,
            signature=signature,
            batch=Batch(index=index, count=len(payloads), path=tuple(map(bytes.hex, path))),
        )
        for index, (payload, path) in enumerate(zip(payloads, paths, strict=True))
    ]


def open_signed(role: Role, signed: Signed, expected_key: str, verify: Verify) -> bytes:
    """Return the payload bytes that `expected_key` signed for `role`. Raises ProofError("signature")."""
    if signed.key != expected_key:
        raise ProofError("signature", f"signed by {signed.key[:16]}…, expected {expected_key[:16]}…")
    payload = signed.payload.encode()
    covered = digest(role, payload)
    if signed.batch is not None:
        covered = digest(Role.BATCH, _root(covered, signed.batch))
    if not verifies(verify, expected_key, signed.signature, covered):
        raise ProofError("signature", f"the {role.value} signature does not verify")
    return payload


def _root(leaf: bytes, batch: Batch) -> bytes:
    """The root under which `leaf` claims to stand. Raises ProofError("signature")."""
    if not 2 <= batch.count <= MAX_BATCH or not all(map(_HASH.fullmatch, batch.path)):
        raise ProofError("signature", f"a batch has 2 to {MAX_BATCH} payloads, and its path is lower-case hex digests")
    try:
        return root_over(leaf, batch.index, batch.count, [bytes.fromhex(sibling) for sibling in batch.path])
    except ProofError as error:
        raise ProofError("signature", error.message) from error


def session_digest(nonce: str, node_id: str, coordinator_key: str) -> bytes:
    """What a node signs to open a session: bound to this coordinator, so a relay cannot reuse it elsewhere."""
    return digest(Role.SESSION, nonce.encode(), node_id.encode(), coordinator_key.encode())
