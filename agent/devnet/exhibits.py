"""What cases are judged by: openings and evidence, as files named by their digest. They go when no case names them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.core.model import Blob
from agent.devnet.keys import sync_directory


class Exhibits:
    """A directory apart from the blobs of results: those are kept for ever, and may have the same content."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    def path_of(self, sha256: str) -> Path:
        return self._directory / sha256

    def clear(self, named: Callable[[str], bool]) -> None:
        """Delete what no case names: a crash came between its file and its case, or between the case and its file."""
        for path in self._directory.iterdir():
            if not named(path.name):
                path.unlink()

    async def take_over(self, sha256: str, path: Path) -> None:
        """Keep the blob at `path` here, too, durably. Raises OSError."""
        await asyncio.to_thread(self._link, sha256, path)

    async def write(self, content: bytes) -> Blob:
        """Keep `content` durably. Raises OSError."""
        blob = Blob(sha256=await asyncio.to_thread(_digest, content), bytes=len(content))
        await asyncio.to_thread(self._write, blob.sha256, content)
        return blob

    def discard(self, sha256s: Iterable[str]) -> None:
        """No case names them any more."""
        for sha256 in sha256s:
            self.path_of(sha256).unlink(missing_ok=True)

    def _link(self, sha256: str, path: Path) -> None:
        part = self._part()
        os.link(path, part)
        self._name(part, sha256)

    def _write(self, sha256: str, content: bytes) -> None:
        part = self._part()
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self._name(part, sha256)

    def _part(self) -> Path:
        return self._directory / f".part-{secrets.token_hex(8)}"

    def _name(self, part: Path, sha256: str) -> None:
        part.replace(self.path_of(sha256))
        part.unlink(missing_ok=True)  # two links of one file: replacing one by the other leaves both
        sync_directory(self._directory)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
