"""Leaves of a program's transcript: one for each member of the archive that it left (docs/proof.md, Leaves)."""

from __future__ import annotations

from typing import NamedTuple

from agent.core.proof.canonical import BYTES, DIGEST, U8, U64, Reader, malformed

_PLAIN, _EXECUTABLE, _DIRECTORY = 0, 1, 2


class FileLeaf(NamedTuple):
    """A member of an archive."""

    path: bytes
    size: int
    sha256: str
    executable: bool = False
    directory: bool = False


def write_file(leaf: FileLeaf) -> bytes:
    """The body of a leaf. Raises ProofError("encoding")."""
    mode = _DIRECTORY if leaf.directory else _EXECUTABLE if leaf.executable else _PLAIN
    return BYTES.write(leaf.path) + U8.write(mode) + U64.write(leaf.size) + DIGEST.write(leaf.sha256)


def read_file(reader: Reader) -> FileLeaf:
    """The inverse of `write_file`. Raises ProofError("encoding")."""
    path, mode = BYTES.read(reader), U8.read(reader)
    if mode not in (_PLAIN, _EXECUTABLE, _DIRECTORY):
        raise malformed(f"{mode} is no kind of file")
    size, sha256 = U64.read(reader), DIGEST.read(reader)
    return FileLeaf(path, size, sha256, executable=mode == _EXECUTABLE, directory=mode == _DIRECTORY)
