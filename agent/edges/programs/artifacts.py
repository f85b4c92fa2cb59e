"""What programs made, a file each, until the coordinator has it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from agent.core.errors import StorageError
from agent.core.model import Blob, LeaseKey
from agent.edges.durable import NO_ROOM, REMEDY_FOR_ROOM, attempt_name, make_private_directory, sync_directory
from agent.ports import Artifact

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in collections.abc from Python 3.12 on

DIRECTORY_NAME = "artifacts"
_DRAFT = ".part-"
_KEPT = re.compile(r"(?P<key>.+)\.(?P<sha256>[0-9a-f]{64})")


class _OwnFile(io.FileIO):
    """Tells its faults in words of its own, so that they are not taken for those of what is written into it."""

    def __init__(self, descriptor: int, told: Callable[[OSError], StorageError]) -> None:
        super().__init__(descriptor, "r+b")
        self._told = told

    def write(self, piece: Buffer, /) -> int:
        """Raises what `told` makes of an OSError."""
        try:
            return super().write(piece)
        except OSError as error:
            raise self._told(error) from error


class FileDraft:
    """An artifact that nobody keeps yet: its file is gone with the last reference to it."""

    def __init__(self, path: Path, blob: Blob) -> None:
        self.path = path
        self.blob = blob
        self._gone = weakref.finalize(self, path.unlink, missing_ok=True)


class FileArtifacts:
    """The port `Artifacts`. Raises StorageError when the directory cannot be used."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: dict[str, Blob] = {}
        """File name of an attempt, without the digest → what it holds."""
        try:
            make_private_directory(directory)
            self._look_round()
        except OSError as error:
            raise self._storage_error(error) from error

    def draft(self, write: Callable[[BinaryIO], None]) -> FileDraft:
        """A new artifact with what `write` writes. Blocks; raises StorageError, and whatever `write` raises."""
        try:
            descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=_DRAFT)
        except OSError as error:
            raise self._storage_error(error) from error
        path = Path(name)
        try:
            return FileDraft(path, self._written(descriptor, write))
        except BaseException:  # cancelled too: no half of a draft stays
            path.unlink(missing_ok=True)
            raise

    async def keep(self, key: LeaseKey, artifact: Artifact) -> None:
        """See the port."""
        try:
            await asyncio.to_thread(self._keep, key, artifact)
        except OSError as error:
            raise self._storage_error(error) from error
        self._kept[attempt_name(key)] = artifact.blob

    def of(self, key: LeaseKey) -> Blob | None:
        """See the port."""
        return self._kept.get(attempt_name(key)) if self._kept else None

    async def read(self, key: LeaseKey) -> bytes | None:
        """See the port."""
        path = self._path(key, self._kept[attempt_name(key)])
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._storage_error(error) from error

    def drop(self, key: LeaseKey) -> None:
        """See the port."""
        if (blob := self._kept.pop(attempt_name(key), None)) is not None:
            with contextlib.suppress(OSError):  # the next start drops it again
                self._path(key, blob).unlink()

    def retain(self, keys: Collection[LeaseKey]) -> None:
        """See the port."""
        wanted = {attempt_name(key) for key in keys}
        for name in [name for name in self._kept if name not in wanted]:
            blob = self._kept.pop(name)
            with contextlib.suppress(OSError):
                (self._directory / f"{name}.{blob.sha256}").unlink()

    def _written(self, descriptor: int, write: Callable[[BinaryIO], None]) -> Blob:
        """Raises StorageError for all that befalls this file: an OSError is of what `write` reads."""
        with io.BufferedRandom(_OwnFile(descriptor, self._storage_error)) as file:
            write(file)
            file.flush()
            try:
                os.fsync(descriptor)
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                return Blob(sha256=sha256, bytes=file.seek(0, os.SEEK_END))
            except OSError as error:
                raise self._storage_error(error) from error

    def _keep(self, key: LeaseKey, artifact: Artifact) -> None:
        artifact.path.replace(self._path(key, artifact.blob))
        sync_directory(self._directory)

    def _path(self, key: LeaseKey, blob: Blob) -> Path:
        return self._directory / f"{attempt_name(key)}.{blob.sha256}"

    def _look_round(self) -> None:
        for path in self._directory.iterdir():
            if path.name.startswith(_DRAFT):
                path.unlink()
            elif match := _KEPT.fullmatch(path.name):
                self._kept[match["key"]] = Blob(sha256=match["sha256"], bytes=path.stat().st_size)

    def _storage_error(self, error: OSError) -> StorageError:
        full = error.errno in NO_ROOM
        return StorageError(
            f"what a program made cannot be kept in {self._directory}: {error.strerror}",
            full=full,
            remedy=REMEDY_FOR_ROOM if full else "Check the disk, and who may write there",
        )
