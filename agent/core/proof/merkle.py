"""A Merkle tree in the style of RFC 6962 (section 2.1), with domain tags, whose root also binds the leaf count."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.errors import ProofError
from agent.core.proof.canonical import U64, Domain, tagged_hash

HASH_BYTES = 32
MAX_LEAVES = 1 << 32


def leaf_hash(leaf: bytes) -> bytes:
    """The hash under which a leaf stands in the tree, and by which the next leaf refers to it."""
    return tagged_hash(Domain.LEAF, leaf)


def root(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, in order. Any count, 0 too."""
    return _bind(len(hashes), _tree(hashes))


def path(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The siblings from leaf `index` up to the root. Raises IndexError."""
    if not 0 <= index < len(hashes):
        raise IndexError(f"leaf {index} of {len(hashes)}")
    return tuple(_siblings(hashes, index))


def root_and_paths(hashes: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    """The root, and what `path` gives for every leaf: each inner node is hashed once."""
    paths: list[list[bytes]] = [[] for _ in hashes]
    return _bind(len(hashes), _grow(hashes, paths, 0)), paths


def verify_path(root: bytes, leaf: bytes, index: int, count: int, siblings: Sequence[bytes]) -> None:
    """Whether the leaf with these bytes stands at `index` of `count` under `root`. Raises ProofError("path")."""
    if root_over(leaf, index, count, siblings) != root:
        raise ProofError("path", f"leaf {index} is not under this root")


def root_over(leaf: bytes, index: int, count: int, siblings: Sequence[bytes]) -> bytes:
    """The one root under which the leaf stands at `index` of `count` with these siblings. Raises ProofError("path")."""
    if not 0 <= index < count <= MAX_LEAVES:
        raise ProofError("path", f"there is no leaf {index} of {count}")
    if any(len(sibling) != HASH_BYTES for sibling in siblings):
        raise ProofError("path", "a sibling is not 32 bytes")
    if len(siblings) != _depth(index, count):
        raise ProofError("path", f"{len(siblings)} siblings, but leaf {index} of {count} has {_depth(index, count)}")
    return _bind(count, _climb(leaf_hash(leaf), index, count, siblings))


def _bind(count: int, top: bytes) -> bytes:
    return tagged_hash(Domain.ROOT, U64.write(count), top)


def _node(left: bytes, right: bytes) -> bytes:
    return tagged_hash(Domain.NODE, left, right)


def _split(count: int) -> int:
    """The largest power of two below `count` (RFC 6962): the left side is always a full tree."""
    return 1 << (count - 1).bit_length() - 1


def _tree(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return tagged_hash(Domain.NODE)
    if len(hashes) == 1:
        return hashes[0]
    middle = _split(len(hashes))
    return _node(_tree(hashes[:middle]), _tree(hashes[middle:]))


def _grow(hashes: Sequence[bytes], paths: list[list[bytes]], first: int) -> bytes:
    """The top over `hashes`, whose leaves begin at `first`; adds to the path of each what it meets on the way up."""
    if len(hashes) <= 1:
        return _tree(hashes)
    middle = _split(len(hashes))
    left, right = _grow(hashes[:middle], paths, first), _grow(hashes[middle:], paths, first + middle)
    for index in range(first, first + len(hashes)):
        paths[index].append(right if index < first + middle else left)
    return _node(left, right)


def _siblings(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    middle = _split(len(hashes))
    if index < middle:
        return [*_siblings(hashes[:middle], index), _tree(hashes[middle:])]
    return [*_siblings(hashes[middle:], index - middle), _tree(hashes[:middle])]


def _depth(index: int, count: int) -> int:
    if count == 1:
        return 0
    middle = _split(count)
    return 1 + (_depth(index, middle) if index < middle else _depth(index - middle, count - middle))


def _climb(top: bytes, index: int, count: int, siblings: Sequence[bytes]) -> bytes:
    """From a leaf up; `siblings` has exactly the depth of this leaf, the root's own sibling last."""
    if count == 1:
        return top
    middle = _split(count)
    *below, sibling = siblings
    if index < middle:
        return _node(_climb(top, index, middle, below), sibling)
    return _node(sibling, _climb(top, index - middle, count - middle, below))
