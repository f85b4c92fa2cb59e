"""Outputs too large for a message, as files named by their digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable
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


class Blobs:
    """A directory of blobs. `in_use` are those of accepted results."""

    def __init__(self, directory: Path, in_use: frozenset[str], clock: Callable[[], float]) -> None:
        self._directory = directory
        self._clock = clock
        self.in_use = set(in_use)
        directory.mkdir(mode=0o700, exist_ok=True)
        for leftover in directory.glob(".part-*"):
            leftover.unlink()
        self._sizes = {path.name: path.stat().st_size for path in directory.iterdir() if SHA256.fullmatch(path.name)}
        self._since = dict.fromkeys(self._sizes, clock())
        self._coming = 0
        """Bytes of uploads under way, at most."""

    def size_of(self, sha256: str | None) -> int | None:
        """Bytes; None when it is not here."""
        return self._sizes.get(sha256) if sha256 else None

    def path_of(self, sha256: str) -> Path:
        return self._directory / sha256

    async def put(self, sha256: str, length: int | None, body: AsyncIterator[bytes]) -> None:
        """Keep a blob durably, or refuse it. The same blob again is read, checked and no error."""
        if not SHA256.fullmatch(sha256):
            raise bad_message("a blob is named by its SHA-256, 64 lower-case hex digits")
        if length is not None and length > MAX_BLOB_BYTES:
            raise Refused(RefusalCode.TOO_LARGE, f"a blob of {length} bytes; at most {MAX_BLOB_BYTES}")
        most = MAX_BLOB_BYTES if length is None else length
        pending = sum(size for name, size in self._sizes.items() if name not in self.in_use)
        if pending + self._coming + most > MAX_PENDING_BYTES:
            raise Refused(RefusalCode.BUSY, "too many blobs wait for their results", retry_after_s=30.0)
        self._coming += most
        try:
            size = await self._keep(sha256, body)
        finally:
            self._coming -= most
        self._sizes[sha256] = size
        self._since[sha256] = self._clock()

    async def _keep(self, sha256: str, body: AsyncIterator[bytes]) -> int:
        """Write, check, sync and name it; returns its size. Raises Refused."""
        part = self._directory / f".part-{secrets.token_hex(8)}"
        try:
            with part.open("xb") as file:
                size = await _receive(file, sha256, body)
            part.rename(self.path_of(sha256))
            await asyncio.to_thread(sync_directory, self._directory)
        finally:
            part.unlink(missing_ok=True)
        return size

    def adopt(self, sha256: str) -> None:
        """An accepted result names it: keep it."""
        self.in_use.add(sha256)

    def sweep(self) -> None:
        """Delete what nobody named in time."""
        limit = self._clock() - ORPHAN_S
        for name in [name for name, since in self._since.items() if since < limit and name not in self.in_use]:
            self.path_of(name).unlink(missing_ok=True)
            del self._sizes[name], self._since[name]


async def _receive(file: BinaryIO, sha256: str, body: AsyncIterator[bytes]) -> int:
    state, size = hashlib.sha256(), 0
    async for piece in body:
        size += len(piece)
        if size > MAX_BLOB_BYTES:
            raise Refused(RefusalCode.TOO_LARGE, f"a blob of over {MAX_BLOB_BYTES} bytes")
        state.update(piece)
        file.write(piece)
    if state.hexdigest() != sha256:
        raise bad_message(f"the blob's SHA-256 is {state.hexdigest()}, it was announced as {sha256}")
    file.flush()
    await asyncio.to_thread(os.fsync, file.fileno())
    return size
