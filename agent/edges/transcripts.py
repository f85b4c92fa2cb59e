"""Transcripts on disk until their challenge window is over: appended to segments, flushed in groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import StorageError
from agent.core.model import LeaseKey
from agent.edges.durable import NO_ROOM, REMEDY_FOR_ROOM
from agent.edges.lane import Lane
from agent.edges.segments.log import SegmentLog, find_beside
from agent.edges.segments.records import PACK_FROM_BYTES, UnsoundError, encode, packed, whole_seconds
from agent.ports import Room

DIRECTORY_NAME = "transcripts"
DEFAULT_QUOTA_BYTES = 16 << 30
"""About 75 million tokens at 229 bytes each: a day at 860 tokens a second."""
GROUP_MAX = 64
"""Transcripts that share a flush. One may be tens of MiB, so not as many as the outbox takes."""


class _Keep(NamedTuple):
    key: LeaseKey
    until: int
    record: bytes


class _Sweep(NamedTuple):
    now: float


class FileTranscripts:
    """The port `Transcripts`."""

    def __init__(self, directory: Path, *, quota_bytes: int = DEFAULT_QUOTA_BYTES) -> None:
        """Raises StorageError when the directory cannot be used. Reads the index of every segment: best in a thread."""
        self._directory = directory
        self._quota_bytes = quota_bytes
        try:
            self._log = SegmentLog(directory)
        except OSError as error:
            raise _storage_error("kept", directory, error) from error
        self._lane: Lane[_Keep | _Sweep, int] = Lane("transcripts", self._work, group_max=GROUP_MAX)

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        """See the port."""
        if len(transcript) < PACK_FROM_BYTES:
            packing, stored = packed(transcript)
        else:
            packing, stored = await asyncio.to_thread(packed, transcript)
        record = encode(key, until, len(transcript), packing, stored)
        await self._lane.do(_Keep(key, whole_seconds(until), record))

    async def read(self, key: LeaseKey) -> bytes | None:
        """See the port."""
        return await asyncio.to_thread(_sound, self._directory, lambda: self._log.find(key))

    async def sweep(self, now: float) -> int:
        """See the port."""
        return await self._lane.do(_Sweep(now))

    def room(self) -> Room:
        """See the port."""
        return Room(used_bytes=self._log.used_bytes, quota_bytes=self._quota_bytes)

    async def close(self) -> None:
        """Finish what was asked for, then close. Idempotent."""
        await self._lane.close()
        await asyncio.to_thread(self._log.close)

    # ----------------------------------------------------------------- in the lane's thread

    def _work(self, jobs: list[_Keep | _Sweep]) -> list[int | Exception]:
        kept = iter(self._keep([job for job in jobs if isinstance(job, _Keep)]))
        return [next(kept) if isinstance(job, _Keep) else self._sweep(job.now) for job in jobs]

    def _keep(self, keeps: Sequence[_Keep]) -> list[int | Exception]:
        """With one flush; when that fails, each alone: a small one may fit where a large one does not."""
        if not keeps:
            return []
        wanted_bytes = sum(len(keep.record) for keep in keeps)
        try:
            if self._log.used_bytes + wanted_bytes > self._quota_bytes:
                raise _over_quota(self._quota_bytes)
            self._log.append(keeps)
        except (StorageError, OSError) as error:
            if len(keeps) == 1:
                return [error if isinstance(error, StorageError) else _storage_error("kept", self._directory, error)]
            return [outcome for keep in keeps for outcome in self._keep([keep])]
        return [len(keep.record) for keep in keeps]

    def _sweep(self, now: float) -> int | Exception:
        try:
            return self._log.sweep(now)
        except OSError as error:
            return _storage_error("deleted", self._directory, error)


def read_transcript(directory: Path, key: LeaseKey) -> bytes | None:
    """Of an agent that may be running; None when it keeps none for `key` (any more). Raises StorageError."""
    return _sound(directory, lambda: find_beside(directory, key) if directory.exists() else None)


def _sound(directory: Path, find: Callable[[], bytes | None]) -> bytes | None:
    try:
        return find()
    except UnsoundError as error:
        raise StorageError(
            f"a transcript in {directory} is damaged: {error}", remedy="It cannot be opened any more: check the disk"
        ) from error
    except OSError as error:
        raise _storage_error("read", directory, error) from error


def _over_quota(quota_bytes: int) -> StorageError:
    return StorageError(
        f"transcripts fill their quota of {quota_bytes >> 20} MiB",
        full=True,
        remedy="Raise proof.retention_mib or shorten proof.retention_s; they are deleted as their time passes",
    )


def _storage_error(what: str, directory: Path, error: OSError) -> StorageError:
    if isinstance(error, BlockingIOError):
        return StorageError(
            f"{directory} is in use by another process", remedy="Is another agent using this state_dir?"
        )
    full = error.errno in NO_ROOM
    return StorageError(
        f"a transcript cannot be {what} in {directory}: {error.strerror}",
        full=full,
        remedy=REMEDY_FOR_ROOM if full else "Check the disk, and who may write there",
    )
