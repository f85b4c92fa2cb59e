"""Transcripts on disk, a file each, until their challenge window is over."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.core.errors import StorageError
from agent.core.model import LeaseKey
from agent.edges.durable import make_private_directory, replace_file

DIRECTORY_NAME = "transcripts"
DEFAULT_QUOTA_BYTES = 16 << 30
"""About 50 million tokens at 327 bytes each: a day at 580 tokens a second."""

WRITERS = 16
"""Flushes in flight at once: a file system's journal takes them all to the disk in one go."""

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
        # Its own threads: whoever else needs one does not wait behind a disk.
        self._threads = ThreadPoolExecutor(WRITERS, "transcripts")
        try:
            make_private_directory(directory)
            self._discard_drafts()
            self._used_bytes = sum(_size(path) or 0 for path in self._files())
        except OSError as error:
            raise self._storage_error("kept", error) from error

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._keep, key, transcript, until)

    async def sweep(self, now: float) -> int:
        """See the port. A file that cannot be deleted is told of when all others are gone."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._sweep, now)

    def _keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        """Without the lock while the disk works: file systems flush what several threads wait for at once."""
        path = self._directory / file_name(key, until)
        try:
            growth = len(transcript) - (_size(path) or 0)
            self._take_room(growth)
            try:
                replace_file(path, transcript)
            except OSError:
                self._give_back(growth)
                raise
        except OSError as error:
            raise self._storage_error("kept", error) from error

    def _take_room(self, size: int) -> None:
        with self._lock:
            if self._used_bytes + size > self._quota_bytes:
                raise StorageError(
                    f"transcripts fill their quota of {self._quota_bytes >> 20} MiB",
                    full=True,
                    remedy="Shorten proof.retention_s; they are deleted as their time passes",
                )
            self._used_bytes += size

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._used_bytes -= size

    def _sweep(self, now: float) -> int:
        try:
            old = [path for path in self._files() if _until(path) <= now]
        except OSError as error:
            raise self._storage_error("deleted", error) from error
        gone, fault = 0, None
        for path in old:
            try:
                gone += self._delete(path)
            except OSError as error:  # the others can go all the same
                fault = error
        if fault is not None:
            raise self._storage_error("deleted", fault) from fault
        return gone

    def _delete(self, path: Path) -> bool:
        """False when somebody else was faster. Raises OSError."""
        size = _size(path)
        if size is None:
            return False
        path.unlink(missing_ok=True)
        self._give_back(size)
        return True

    def _files(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if _NAME.match(path.name)]

    def _discard_drafts(self) -> None:
        """What a crash left half written was never acknowledged."""
        for path in self._directory.glob(".*.leaves.*"):
            path.unlink()

    def _storage_error(self, what: str, error: OSError) -> StorageError:
        return StorageError(
            f"a transcript cannot be {what} in {self._directory}: {error.strerror}",
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


def _size(path: Path) -> int | None:
    """None when there is no such file. Raises OSError."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _until(path: Path) -> int:
    match = _NAME.match(path.name)
    assert match is not None
    return int(match["until"])
