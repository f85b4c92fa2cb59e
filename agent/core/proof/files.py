"""Leaves of a program's transcript: one for each member of the archive that it left (docs/proof.md, Leaves)."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from agent.core.archive import ArchiveError, members
from agent.core.errors import ProofError
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


def leaves_of(archive: bytes) -> list[FileLeaf]:
    """What a node commits to that left this archive. Raises ProofError("artifact") when it is none."""
    try:
        found = members(lambda offset, count: archive[offset : offset + count], len(archive))
    except ArchiveError as error:
        raise ProofError("artifact", f"it is no archive of the kind that nodes make: {error}") from error
    return [
        FileLeaf(
            path=entry.path,
            size=entry.size,
            sha256=hashlib.sha256(archive[offset : offset + entry.size]).hexdigest(),
            executable=entry.executable,
            directory=entry.directory,
        )
        for entry, offset in found
    ]


def read_file(reader: Reader) -> FileLeaf:
    """The inverse of `write_file`. Raises ProofError("encoding")."""
    path, mode = BYTES.read(reader), U8.read(reader)
    if mode not in (_PLAIN, _EXECUTABLE, _DIRECTORY):
        raise malformed(f"{mode} is no kind of file")
    size, sha256 = U64.read(reader), DIGEST.read(reader)
    return FileLeaf(path, size, sha256, executable=mode == _EXECUTABLE, directory=mode == _DIRECTORY)
