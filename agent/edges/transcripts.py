"""Transcripts on disk, a file each, until their challenge window is over."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import re
import threading
from pathlib import Path

from agent.core.errors import StorageError
from agent.core.model import LeaseKey
from agent.edges.durable import make_private_directory, replace_file

DIRECTORY_NAME = "transcripts"
DEFAULT_QUOTA_BYTES = 16 << 30
"""About 50 million tokens at 327 bytes each: a day at 580 tokens a second."""

# The time stands in the name, so that a sweep reads no file.
_NAME = re.compile(r"(?P<until>\d{12})-.+\.leaves\Z")
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_FULL = {errno.ENOSPC, errno.EDQUOT}


class FileTranscripts:
    """The port `Transcripts`. Raises StorageError when the directory cannot be used."""

    def __init__(self, directory: Path, *, quota_bytes: int = DEFAULT_QUOTA_BYTES) -> None:
        self._directory = directory
        self._quota_bytes = quota_bytes
        self._lock = threading.Lock()
        try:
            make_private_directory(directory)
            self._discard_drafts()
            self._used_bytes = sum(path.stat().st_size for path in self._files())
        except OSError as error:
            raise self._storage_error(error) from error

    @property
    def used_bytes(self) -> int:
        """What all kept transcripts weigh."""
        return self._used_bytes

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        await asyncio.to_thread(self._keep, key, transcript, until)

    async def sweep(self, now: float) -> int:
        return await asyncio.to_thread(self._sweep, now)

    def _keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        """Without the lock while the disk works: file systems flush what several threads wait for at once."""
        path = self._directory / file_name(key, until)
        before = path.stat().st_size if path.exists() else 0
        self._take_room(len(transcript) - before)
        try:
            replace_file(path, transcript)
        except OSError as error:
            self._use(before - len(transcript))
            raise self._storage_error(error) from error

    def _take_room(self, size: int) -> None:
        with self._lock:
            if self._used_bytes + size > self._quota_bytes:
                raise StorageError(
                    f"transcripts fill their quota of {self._quota_bytes >> 20} MiB",
                    full=True,
                    remedy="Shorten proof.retention_s; they are deleted as their time passes",
                )
            self._used_bytes += size

    def _use(self, size: int) -> None:
        with self._lock:
            self._used_bytes += size

    def _sweep(self, now: float) -> int:
        gone = 0
        try:
            for path in self._files():
                if _until(path) <= now:
                    size = path.stat().st_size
                    path.unlink()
                    self._use(-size)
                    gone += 1
        except OSError as error:
            raise self._storage_error(error) from error
        return gone

    def _files(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if _NAME.match(path.name)]

    def _discard_drafts(self) -> None:
        """What a crash left half written was never acknowledged."""
        for path in self._directory.glob(".*.leaves.*"):
            path.unlink()

    def _storage_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"a transcript cannot be kept in {self._directory}: {error.strerror}",
            full=error.errno in _FULL,
            remedy="Free space on that disk" if error.errno in _FULL else "Check the disk, and who may write there",
        )


def file_name(key: LeaseKey, until: float) -> str:
    """The file of one attempt. A task id that is no plain word is replaced by its digest: it comes from outside."""
    name = key.task_id
    if not _PLAIN_ID.match(name):
        name = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    whole = min(max(math.ceil(until), 0), 10**12 - 1)
    return f"{whole:012d}-{name}-{key.attempt}-{key.fence}.leaves"


def _until(path: Path) -> int:
    match = _NAME.match(path.name)
    assert match is not None
    return int(match["until"])
