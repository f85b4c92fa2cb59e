"""Reads a kept transcript back and checks it against its commitment (docs/proof.md, Leaves)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Protocol

from agent.core.errors import ProofError
from agent.core.model import Commitment, Value
from agent.core.proof.canonical import BYTES, U8, U16, U32, U64, Codec, Reader, malformed
from agent.core.proof.files import FileLeaf, read_file
from agent.core.proof.header import ProofKind
from agent.core.proof.merkle import HASH_BYTES, leaf_hash, root
from agent.core.proof.toploc import IMPRINT_BYTES
from agent.core.proof.transcript import LEAF_TOKENS, NO_PREVIOUS, LeafKind, proof_kind_of

MAX_LEAF_BYTES = 32 << 20
"""32 tokens with 65,535 candidates of 8 bytes each, and their frame, are 17 MiB."""


class Leaf(Value):
    """One leaf, read. Which fields are set depends on `kind`."""

    kind: LeafKind
    index: int
    previous: bytes
    ids: tuple[int, ...] = ()
    candidates: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Per token: (id, log-probability), most likely first."""
    texts: tuple[bytes, ...] = ()
    """UTF-8, as the engine sent it."""
    row: tuple[float, ...] = ()
    file: FileLeaf | None = None
    entries: int = 0
    """END alone: tokens, text pieces and rows of the whole transcript."""
    end_logprob: float | None = None
    imprints: tuple[bytes, ...] = ()
    """END alone: of hidden states, one for each leaf of tokens before the first of another kind; or none."""

    @property
    def count(self) -> int:
        """Entries of this leaf."""
        return len(self.ids) + len(self.texts) + (self.kind in (LeafKind.ROW, LeafKind.FILE))


def split_leaves(raw: bytes) -> tuple[bytes, ...]:
    """A transcript file: leaves, each with its length (u32) in front. Raises ProofError("encoding")."""
    reader, left = Reader(raw), len(raw)
    leaves: list[bytes] = []
    while left:
        length = U32.read(reader)
        if length > MAX_LEAF_BYTES:
            raise malformed(f"no transcript: leaf {len(leaves)} of {length} bytes is over {MAX_LEAF_BYTES}")
        leaves.append(reader.take(length))
        left -= 4 + length
    return tuple(leaves)


def join_leaves(leaves: Iterable[bytes]) -> bytes:
    """A transcript file: the inverse of `split_leaves`."""
    return b"".join(U32.write(len(leaf)) + leaf for leaf in leaves)


def check_leaves(leaves: Sequence[bytes], commitment: Commitment) -> tuple[Leaf, ...]:
    """The leaves behind a commitment, read. Raises ProofError: "transcript_root", "transcript_leaves", "encoding"."""
    hashes = [leaf_hash(leaf) for leaf in leaves]
    if len(leaves) != commitment.leaves or root(hashes).hex() != commitment.root:
        raise ProofError("transcript_root", "this transcript is not the one that was committed to")
    read = tuple(read_leaf(leaf) for leaf in leaves)
    for leaf, previous in zip(read, [NO_PREVIOUS, *hashes], strict=False):
        if leaf.previous != previous:
            raise ProofError("transcript_leaves", f"leaf {leaf.index} does not continue the one before")
    check_shape(read)
    return read


class Shape(Protocol):
    """Where a leaf stands, and how much is in it."""

    @property
    def kind(self) -> LeafKind: ...
    @property
    def index(self) -> int: ...
    @property
    def count(self) -> int: ...


def check_shape(leaves: Sequence[Shape]) -> None:
    """Where leaves begin and end is not the node's choice: full ones, but for the last of a run of one kind.

    Raises ProofError("transcript_leaves").
    """
    if not leaves:
        raise ProofError("transcript_leaves", "there is no end leaf")
    for index, leaf in enumerate(leaves):
        if leaf.index != index or (leaf.kind is LeafKind.END) != (index == len(leaves) - 1):
            raise ProofError("transcript_leaves", f"leaf {index} is out of place")
        if (
            leaf.kind in (LeafKind.TOKENS, LeafKind.TEXT)
            and leaf.count != LEAF_TOKENS
            and leaves[index + 1].kind == leaf.kind
        ):
            raise ProofError("transcript_leaves", f"leaf {index} is not full")
    end = leaves[-1]
    if not isinstance(end, Leaf) or end.entries != sum(leaf.count for leaf in leaves):
        raise ProofError("transcript_leaves", "the end leaf counts otherwise")
    if end.imprints and len(end.imprints) != imprinted(leaves):
        raise ProofError("transcript_leaves", "there is not one imprint for each leaf of tokens")


def check_kinds(leaves: Sequence[Shape], proof_kind: ProofKind) -> None:
    """Whether leaves with output are of the kind that was committed to, and not among others that nobody looks at.

    Raises ProofError("transcript_leaves").
    """
    kinds = {leaf.kind for leaf in leaves[:-1]}
    together = len(kinds) < 2 or kinds == {LeafKind.TOKENS, LeafKind.TEXT}
    if kinds and (not together or proof_kind_of(kinds) is not proof_kind):
        told = ", ".join(sorted(kind.name.lower() for kind in kinds))
        raise ProofError("transcript_leaves", f"leaves of {told} are no proof of the kind {proof_kind.value}")


def imprinted(leaves: Iterable[Shape]) -> int:
    """How many leaves have an imprint, where there are any: those whose tokens, and all before, are told."""
    return sum(1 for _ in takewhile(lambda leaf: leaf.kind is LeafKind.TOKENS, leaves))


def read_leaf(raw: bytes) -> Leaf:
    """Take one leaf apart. Raises ProofError("encoding")."""
    reader = Reader(raw)
    kind, index, previous = read_kind(reader), U32.read(reader), reader.take(HASH_BYTES)
    match kind:
        case LeafKind.END:
            leaf = Leaf(
                kind=kind,
                index=index,
                previous=previous,
                entries=U64.read(reader),
                end_logprob=_told(reader),
                imprints=_imprints(reader),
            )
        case LeafKind.TOKENS:
            ids = read_ids(reader, read_count(reader))
            candidates = tuple(_candidates(reader) for _ in ids)
            leaf = Leaf(kind=kind, index=index, previous=previous, ids=ids, candidates=candidates)
        case LeafKind.TEXT:
            texts = tuple(BYTES.read(reader) for _ in range(read_count(reader)))
            leaf = Leaf(kind=kind, index=index, previous=previous, texts=texts)
        case LeafKind.ROW:
            leaf = Leaf(kind=kind, index=index, previous=previous, row=_floats(reader, U32.read(reader)))
        case LeafKind.FILE:
            leaf = Leaf(kind=kind, index=index, previous=previous, file=read_file(reader))
    reader.end()
    return leaf


def read_kind(reader: Reader) -> LeafKind:
    """Raises ProofError("encoding")."""
    number = U8.read(reader)
    try:
        return LeafKind(number)
    except ValueError as error:
        raise malformed(f"{number} is no kind of leaf") from error


def _limited(codec: Codec[int], most: int, reader: Reader) -> int:
    value = codec.read(reader)
    if value > most:
        raise malformed(f"{value} is over {most}")
    return value


def read_count(reader: Reader) -> int:
    """Entries of a leaf: never none, never more than fit. Raises ProofError("encoding")."""
    count = _limited(U16, LEAF_TOKENS, reader)
    if count == 0:
        raise malformed("a leaf is empty")
    return count


def read_ids(reader: Reader, count: int) -> tuple[int, ...]:
    """Raises ProofError("encoding")."""
    return struct.unpack(f"<{count}I", reader.take(4 * count))


def _floats(reader: Reader, count: int) -> tuple[float, ...]:
    values: tuple[float, ...] = struct.unpack(f"<{count}f", reader.take(4 * count))
    if any(value != value for value in values):  # noqa: PLR0124  (only NaN differs from itself)
        raise malformed("a number is NaN")
    return values


def _candidates(reader: Reader) -> tuple[tuple[int, float], ...]:
    count = U16.read(reader)
    return tuple(zip(read_ids(reader, count), _floats(reader, count), strict=True))


def _imprints(reader: Reader) -> tuple[bytes, ...]:
    """What follows the end, if anything does."""
    if not reader.left:
        return ()
    if not (count := _limited(U32, MAX_LEAF_BYTES // IMPRINT_BYTES, reader)):
        raise malformed("a list of no imprints is left out")
    return tuple(reader.take(IMPRINT_BYTES) for _ in range(count))


def _told(reader: Reader) -> float | None:
    match U8.read(reader):
        case 0:
            return None
        case 1:
            return _floats(reader, 1)[0]
        case flag:
            raise malformed(f"{flag} is no flag")
