"""Commitment to the digests of rows: a Merkle tree (`core.proof.merkle`) whose leaves hold those of 256 rows each."""

from __future__ import annotations

from agent.core.attest.messages import OpenedBlock
from agent.core.attest.words import DIGEST_BYTES
from agent.core.errors import ProofError
from agent.core.proof import merkle

BLOCK_ROWS = 256
"""A leaf is 2 KiB then: hashing ten million rows takes a tenth of a second, and opening one of them 3 KiB."""
READINGS = 4
"""How often what was kept is read, each time under a seed that follows from the last: all must still be there."""
_LEAF_BYTES = BLOCK_ROWS * DIGEST_BYTES


def leaves_of(rows: int) -> int:
    """How many leaves the digests of so many rows make."""
    return -(-rows // BLOCK_ROWS)


def reading_of(row: int) -> int:
    """In which of the readings a drawn row is looked at; rows are drawn by chance, so readings are."""
    return row % READINGS


class Digests:
    """Digests of rows 0 to n, joined, and the tree over them."""

    def __init__(self, raw: bytes) -> None:
        self._raw = memoryview(raw)
        self._hashes = [merkle.leaf_hash(self._leaf(at)) for at in range(leaves_of(len(raw) // DIGEST_BYTES))]

    @property
    def root(self) -> str:
        """Hex."""
        return merkle.root(self._hashes).hex()

    def open(self, row: int) -> OpenedBlock:
        """Where the digest of `row` is."""
        leaf = row // BLOCK_ROWS
        return OpenedBlock(digests=self._leaf(leaf), path=b"".join(merkle.path(self._hashes, leaf)))

    def _leaf(self, at: int) -> bytes:
        return bytes(self._raw[at * _LEAF_BYTES : (at + 1) * _LEAF_BYTES])


def digest_in(opened: OpenedBlock, root: str, row: int, rows: int) -> bytes:
    """The digest of `row` that was committed to. Raises ProofError when this block is not under the root."""
    size = merkle.HASH_BYTES
    path = tuple(opened.path[at : at + size] for at in range(0, len(opened.path), size))
    leaf = row // BLOCK_ROWS
    try:
        expected = bytes.fromhex(root)
    except ValueError as error:
        raise ProofError("path", "a root that is not hex") from error
    merkle.verify_path(expected, opened.digests, leaf, leaves_of(rows), path)
    length = DIGEST_BYTES * min(BLOCK_ROWS, rows - leaf * BLOCK_ROWS)
    if len(opened.digests) != length:
        raise ProofError("leaf", f"a block of {len(opened.digests)} bytes, not {length}")
    at = row % BLOCK_ROWS * DIGEST_BYTES
    return opened.digests[at : at + DIGEST_BYTES]
