"""The coordinator's files: blobs and exhibits, by their digests, on a disk that survives its process."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable

from agent.core.model import Blob
from agent.core.wire import RefusalCode
from agent.devnet.core.rules import Refused
from agent.devnet.store import blobs_in_use
from tests.sim.store import StoreDisk


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class SimPath:
    """As much of a Path as is read."""

    def __init__(self, files: dict[str, bytes], name: str) -> None:
        self._files, self._name = files, name

    def read_bytes(self) -> bytes:
        if self._name not in self._files:
            raise FileNotFoundError(self._name)
        return self._files[self._name]

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)


class SimBlobs:
    """As devnet.blobs.Blobs to desk, reception and routes; without bounds, and nothing is swept for want of a name."""

    def __init__(self, disk: StoreDisk, chance: random.Random) -> None:
        self._disk, self._chance = disk, chance
        self._kept = set(blobs_in_use(disk.database))
        self._owners: dict[str, str] = {}

    def size_of(self, sha256: str | None) -> int | None:
        return len(self._disk.files[sha256]) if sha256 in self._disk.files else None

    def path_of(self, sha256: str) -> SimPath:
        return SimPath(self._disk.files, sha256)

    def adopt(self, sha256: str) -> None:
        self._owners.pop(sha256, None)
        self._kept.add(sha256)

    def release(self, node_id: str, sha256: str) -> None:
        if self._owners.get(sha256) == node_id:
            del self._owners[sha256]
            self._disk.files.pop(sha256, None)

    async def put(self, node_id: str, sha256: str, content: bytes) -> None:
        """Durable when it returns. Raises Refused."""
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        if sha256_of(content) != sha256:
            raise Refused(RefusalCode.BAD_MESSAGE, "the blob has another digest")
        self._disk.files[sha256] = content
        if sha256 not in self._kept:
            self._owners[sha256] = node_id
        await asyncio.sleep(self._disk.write_s * self._chance.random())


class SimExhibits:
    """As devnet.exhibits.Exhibits."""

    def __init__(self, disk: StoreDisk, chance: random.Random) -> None:
        self._disk, self._chance = disk, chance

    def path_of(self, sha256: str) -> SimPath:
        return SimPath(self._disk.exhibits, sha256)

    def clear(self, named: Callable[[str], bool]) -> None:
        for sha256 in [it for it in self._disk.exhibits if not named(it)]:
            del self._disk.exhibits[sha256]

    async def take_over(self, sha256: str, path: SimPath) -> None:
        await self._keep(sha256, path.read_bytes())

    async def write(self, content: bytes) -> Blob:
        await self._keep(sha256_of(content), content)
        return Blob(sha256=sha256_of(content), bytes=len(content))

    def discard(self, sha256s: Iterable[str]) -> None:
        for sha256 in sha256s:
            self._disk.exhibits.pop(sha256, None)

    async def _keep(self, sha256: str, content: bytes) -> None:
        await asyncio.sleep(self._disk.write_s * self._chance.random())
        self._disk.exhibits[sha256] = content
        await asyncio.sleep(self._disk.write_s * self._chance.random())
