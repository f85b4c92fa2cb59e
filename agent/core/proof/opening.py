"""Opened leaves: what a node shows of a transcript when it is asked to (docs/proof.md, Openings).

All leaves are listed: some in full, the others bare, by hash, kind and token ids. So the root is always made again, and
what is open can be repeated behind what is not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from agent.core.errors import ProofError
from agent.core.model import Commitment, Value
from agent.core.proof.canonical import BYTES, U8, U16, U32, Reader
from agent.core.proof.leaves import (
    MAX_LEAF_BYTES,
    Leaf,
    check_shape,
    join_leaves,
    read_count,
    read_ids,
    read_kind,
    read_leaf,
)
from agent.core.proof.merkle import HASH_BYTES, leaf_hash, root
from agent.core.proof.transcript import NO_PREVIOUS, LeafKind
from agent.core.wire import MAX_BLOB_BYTES

VERSION = 1
_BARE, _OPEN = 0, 1
_INDEX_BYTES = _ID_BYTES = 4
_COUNTED = (LeafKind.TOKENS, LeafKind.TEXT)


class BareLeaf(Value):
    """A leaf that is not shown. The root binds its hash alone: kind, count and ids are what the node says they are,
    and hold only as far as the delivered text and the leaves behind them agree.
    """

    kind: LeafKind
    index: int
    hash: bytes
    count: int
    ids: tuple[int, ...] = ()


AnyLeaf = Leaf | BareLeaf


class OpenedTranscript(NamedTuple):
    """An opening that its commitment's root bears out."""

    leaves: tuple[AnyLeaf, ...]
    """All of them, in order."""
    opened: tuple[int, ...]
    """Which leaves with output are shown in full, in order. The end leaf always is, and is not among them."""
    transcript: bytes | None
    """The transcript file, where every leaf is shown."""

    @property
    def whole(self) -> bool:
        """Whether every leaf is shown."""
        return self.transcript is not None


def open_leaves(leaves: Sequence[bytes], chosen: Collection[int] = ()) -> bytes:
    """Show the `chosen` of a transcript's leaves, or all when there are none, and always the end leaf.

    Raises ProofError("opening") for a leaf that does not exist or an opening larger than a blob may be, and
    ProofError("encoding") where the leaves are not those of a transcript.
    """
    if beyond := [index for index in chosen if not 0 <= index < len(leaves)]:
        raise ProofError("opening", f"there is no leaf {beyond[0]} of {len(leaves)}")
    last = len(leaves) - 1
    shown = (
        _shown(leaf) if not chosen or at in chosen or at == last else _bare(leaf) for at, leaf in enumerate(leaves)
    )
    return _bounded(U8.write(VERSION) + U32.write(len(leaves)) + b"".join(shown))


def read_opening(raw: bytes, commitment: Commitment) -> OpenedTranscript:
    """Read an opening and hold it against the root. Raises ProofError("opening")."""
    try:
        return _read(_bounded(raw), commitment)
    except ProofError as error:
        raise ProofError("opening", error.message) from error


def _bounded(raw: bytes) -> bytes:
    if len(raw) > MAX_BLOB_BYTES:
        raise ProofError("opening", f"an opening of {len(raw)} bytes is over {MAX_BLOB_BYTES}: open fewer leaves")
    return raw


def _shown(leaf: bytes) -> bytes:
    return U8.write(_OPEN) + BYTES.write(leaf)


def _bare(raw: bytes) -> bytes:
    """Only the head is read: of a hundred thousand tokens the candidates alone would take seconds."""
    reader = Reader(raw)
    kind, _ = read_kind(reader), reader.take(_INDEX_BYTES + HASH_BYTES)
    written = U8.write(_BARE) + leaf_hash(raw) + U8.write(kind)
    if kind in _COUNTED:
        count = read_count(reader)
        written += U16.write(count)
        if kind is LeafKind.TOKENS:
            written += reader.take(count * _ID_BYTES)
    return written


def _read(raw: bytes, commitment: Commitment) -> OpenedTranscript:
    reader = Reader(raw)
    if (version := U8.read(reader)) != VERSION:
        raise ProofError("opening", f"version {version} of openings is unknown; this is version {VERSION}")
    if (count := U32.read(reader)) != commitment.leaves:
        raise ProofError("opening", f"{count} leaves are listed, {commitment.leaves} were committed to")
    raws: list[bytes] = []
    hashes: list[bytes] = []
    leaves: list[AnyLeaf] = []
    for index in range(count):
        if _is_open(reader):
            raws.append(_leaf_bytes(reader))
            hashes.append(leaf_hash(raws[-1]))
            leaves.append(_continuing(read_leaf(raws[-1]), hashes[index - 1] if index else NO_PREVIOUS))
        else:
            leaves.append(bare := _read_bare(reader, index))
            hashes.append(bare.hash)
    reader.end()
    if root(hashes).hex() != commitment.root:
        raise ProofError("opening", "these leaves are not those that were committed to")
    check_shape(leaves)
    opened = tuple(leaf.index for leaf in leaves[:-1] if isinstance(leaf, Leaf))
    return OpenedTranscript(tuple(leaves), opened, join_leaves(raws) if len(raws) == count else None)


def _is_open(reader: Reader) -> bool:
    flag = U8.read(reader)
    if flag not in (_BARE, _OPEN):
        raise ProofError("opening", f"{flag} is neither an open leaf nor a bare one")
    return flag == _OPEN


def _leaf_bytes(reader: Reader) -> bytes:
    length = U32.read(reader)
    if length > MAX_LEAF_BYTES:
        raise ProofError("opening", f"a leaf of {length} bytes is over {MAX_LEAF_BYTES}")
    return reader.take(length)


def _continuing(leaf: Leaf, previous: bytes) -> Leaf:
    if leaf.previous != previous:
        raise ProofError("opening", f"leaf {leaf.index} does not continue the one before")
    return leaf


def _read_bare(reader: Reader, index: int) -> BareLeaf:
    digest, kind = reader.take(HASH_BYTES), read_kind(reader)
    if kind is LeafKind.END:
        raise ProofError("opening", "the end leaf is not shown in full")
    count = read_count(reader) if kind in _COUNTED else 1
    ids = read_ids(reader, count) if kind is LeafKind.TOKENS else ()
    return BareLeaf(kind=kind, index=index, hash=digest, count=count, ids=ids)
