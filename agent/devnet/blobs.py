"""Outputs too large for a message, as files named by their digest."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.core.wire import MAX_BLOB_BYTES, RefusalCode
from agent.devnet.core.rules import Refused, bad_message
from agent.devnet.keys import sync_directory

SHA256 = re.compile(r"[0-9a-f]{64}")
ORPHAN_S = 3600.0
"""A blob that no accepted result named within an hour never will be: its result is delivered seconds later."""
MAX_PENDING_BYTES = 1 << 30
"""All blobs that no accepted result names yet."""
MAX_PENDING_BYTES_OF_A_NODE = 2 * MAX_BLOB_BYTES
"""Of these, one node's: it delivers their results before it needs room for more."""
REQUESTER = "requester"
"""Who uploads bundles and inputs, where nodes have their ids."""
MAX_PENDING_BYTES_OF_REQUESTERS = MAX_PENDING_BYTES // 2
"""All that one task may name at most would be more; what is named by a task waits no longer."""
PATIENCE_S = 15.0
"""What an upload may fall behind `SLOWEST_BYTES_PER_S`; longer, and it is given up."""
SLOWEST_BYTES_PER_S = 128 << 10


@dataclass(frozen=True, slots=True)
class _Pending:
    """A blob that no accepted result names yet."""

    node_id: str
    bytes: int
    since: float


class Blobs:
    """A directory of blobs. `in_use` are those of accepted results: they are kept for ever."""

    def __init__(
        self,
        directory: Path,
        in_use: frozenset[str],
        clock: Callable[[], float],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._patience_s = patience_s
        directory.mkdir(mode=0o700, exist_ok=True)
        for leftover in directory.glob(".part-*"):
            leftover.unlink()
        sizes = {path.name: path.stat().st_size for path in directory.iterdir() if SHA256.fullmatch(path.name)}
        self._kept = {name: size for name, size in sizes.items() if name in in_use}
        self._pending: dict[str, _Pending] = {}
        """Longest waiting first."""
        self._taken: Counter[str] = Counter()
        """Node → bytes that are pending or, at most, on their way. What an earlier life left is nobody's: ""."""
        for name in sizes.keys() - in_use:
            self._await(name, _Pending("", sizes[name], clock()))

    def size_of(self, sha256: str | None) -> int | None:
        """Bytes; None when it is not here."""
        if sha256 in self._pending:
            return self._pending[sha256].bytes
        return self._kept.get(sha256) if sha256 else None

    def path_of(self, sha256: str) -> Path:
        return self._directory / sha256

    async def put(
        self, node_id: str, sha256: str, length: int | None, body: AsyncIterator[bytes], *, owed: bool = False
    ) -> None:
        """Keep a node's blob durably, or refuse it. The same blob again is read, checked and no error. `owed`: the node
        was asked to open something, and pays if it does not: only its own share bounds it.
        """
        if not SHA256.fullmatch(sha256):
            raise bad_message("a blob is named by its SHA-256, 64 lower-case hex digits")
        if length is not None and length > MAX_BLOB_BYTES:
            raise Refused(RefusalCode.TOO_LARGE, f"a blob of {length} bytes; at most {MAX_BLOB_BYTES}")
        if (known := self._forget(sha256)) is not None:  # it must not be swept away while it comes again
            self._await(sha256, dataclasses.replace(known, since=self._clock()))
        with self._room(node_id, MAX_BLOB_BYTES if length is None else length, owed=owed):
            await self._keep(node_id, sha256, body)
        await asyncio.to_thread(sync_directory, self._directory)

    def adopt(self, sha256: str) -> None:
        """An accepted result names it: keep it."""
        if (blob := self._forget(sha256)) is not None:
            self._kept[sha256] = blob.bytes

    def release(self, node_id: str, sha256: str) -> None:
        """This node's blob is kept elsewhere, or was of no use; no result of it will name it."""
        if sha256 in self._pending and self._pending[sha256].node_id == node_id:
            self._forget(sha256)
            self.path_of(sha256).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what nobody named in time."""
        limit = self._clock() - ORPHAN_S
        while self._pending:
            oldest = next(iter(self._pending))
            if self._pending[oldest].since >= limit:
                return
            self._forget(oldest)
            self.path_of(oldest).unlink(missing_ok=True)

    @contextmanager
    def _room(self, node_id: str, most: int, *, owed: bool) -> Iterator[None]:
        """Hold room for an upload of a node while it comes. Raises Refused(BUSY)."""
        limit = MAX_PENDING_BYTES_OF_REQUESTERS if node_id == REQUESTER else MAX_PENDING_BYTES_OF_A_NODE
        if self._taken[node_id] + most > limit:
            waits_for = "tasks" if node_id == REQUESTER else "results"
            what = f"too many blobs of this sender wait for the {waits_for} that name them"
            raise Refused(RefusalCode.BUSY, what, retry_after_s=5.0)
        if not owed and self._taken.total() + most > MAX_PENDING_BYTES:
            raise Refused(RefusalCode.BUSY, "too many blobs of all nodes wait for their results", retry_after_s=30.0)
        self._taken[node_id] += most
        try:
            yield
        finally:
            self._give_back(node_id, most)

    def _await(self, sha256: str, blob: _Pending) -> None:
        self._pending[sha256] = blob
        self._taken[blob.node_id] += blob.bytes

    def _forget(self, sha256: str) -> _Pending | None:
        blob = self._pending.pop(sha256, None)
        if blob is not None:
            self._give_back(blob.node_id, blob.bytes)
        return blob

    def _give_back(self, node_id: str, size: int) -> None:
        self._taken[node_id] -= size
        if not self._taken[node_id]:
            del self._taken[node_id]

    async def _keep(self, node_id: str, sha256: str, body: AsyncIterator[bytes]) -> None:
        """Write, check, name and note it. Raises Refused."""
        part = self._directory / f".part-{secrets.token_hex(8)}"
        try:
            with part.open("xb") as file:
                size = await self._receive(file, sha256, body)
            # Nothing is awaited between the two: who releases the same blob meanwhile takes both away, or neither.
            part.rename(self.path_of(sha256))
            if sha256 not in self._kept:
                self._forget(sha256)
                self._await(sha256, _Pending(node_id, size, self._clock()))
        finally:
            part.unlink(missing_ok=True)

    async def _receive(self, file: BinaryIO, sha256: str, body: AsyncIterator[bytes]) -> int:
        state, size = hashlib.sha256(), 0
        try:
            begun = asyncio.get_running_loop().time()
            async with asyncio.timeout(self._patience_s) as limit:
                async for piece in body:
                    size += len(piece)
                    if size > MAX_BLOB_BYTES:
                        raise Refused(RefusalCode.TOO_LARGE, f"a blob of over {MAX_BLOB_BYTES} bytes")
                    limit.reschedule(begun + self._patience_s + size / SLOWEST_BYTES_PER_S)
                    state.update(piece)
                    file.write(piece)
        except TimeoutError as error:
            what = f"{size} bytes came of the blob, slower than {SLOWEST_BYTES_PER_S} bytes a second: send it again"
            raise Refused(RefusalCode.BUSY, what) from error
        if state.hexdigest() != sha256:
            raise bad_message(f"the blob's SHA-256 is {state.hexdigest()}, it was announced as {sha256}")
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
        return size
