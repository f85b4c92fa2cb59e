"""What programs need, kept by digest: bundles unpacked, inputs as files. Whole and checked, or not there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from agent.core.archive import ArchiveError
from agent.core.errors import EngineError, StorageError
from agent.core.model import ExecInput, Reason
from agent.edges.durable import make_private_directory, sync_directory
from agent.edges.programs.unpack import unpack

_DRAFT = ".part-"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Places(NamedTuple):
    """Where a task's things lie."""

    bundle: Path
    inputs: dict[str, Path]
    """By the names that the task gives them."""


class Stock:
    """A directory of `bundle-<sha256>/` and `input-<sha256>`, bounded by a quota.

    What a program uses stays while it runs. Of the rest the least recently used goes first. Owned by one event loop.
    """

    def __init__(self, directory: Path, quota_bytes: int) -> None:
        """Raises StorageError."""
        self._directory = directory
        self.quota_bytes = quota_bytes
        self._held: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        """Least recently used first."""
        try:
            make_private_directory(directory)
            self._look_round()
        except OSError as error:
            raise _storage_error(directory, error) from error

    def lacking(self, task: ExecInput) -> dict[str, int]:
        """What has to be fetched for `task`: name here → size."""
        wanted = {f"bundle-{task.bundle.sha256}": task.bundle.bytes}
        wanted |= {f"input-{blob.sha256}": blob.bytes for blob in task.inputs.values()}
        for name in wanted.keys() & self._sizes.keys():
            self._touch(name)
        return {name: size for name, size in wanted.items() if name not in self._sizes}

    def incoming(self, name: str, size: int) -> Incoming:
        """Takes in one of `lacking`; makes room for it first. Raises StorageError."""
        try:
            self._make_room(size)
            return Incoming(self, self._directory, name, size)
        except OSError as error:
            raise _storage_error(self._directory, error) from error

    @contextlib.contextmanager
    def held(self, task: ExecInput) -> Iterator[Places]:
        """All that `task` needs, while it runs. Raises EngineError(BLOB_UNAVAILABLE)."""
        inputs = {name: f"input-{blob.sha256}" for name, blob in task.inputs.items()}
        names = {f"bundle-{task.bundle.sha256}", *inputs.values()}
        if gone := names - self._sizes.keys():
            raise EngineError(Reason.BLOB_UNAVAILABLE, f"{min(gone)} was not brought")
        self._held.update(names)
        try:
            for name in names:
                self._touch(name)
            yield Places(
                bundle=self._directory / f"bundle-{task.bundle.sha256}",
                inputs={name: self._directory / kept for name, kept in inputs.items()},
            )
        finally:
            self._held.subtract(names)

    def admit(self, name: str, size: int) -> None:
        """It is there now."""
        self._sizes[name] = size

    def _touch(self, name: str) -> None:
        self._sizes[name] = self._sizes.pop(name)
        with contextlib.suppress(OSError):  # costs a better guess after the next start, no more
            os.utime(self._directory / name)

    def _make_room(self, size: int) -> None:
        """Raises OSError, StorageError when what is held leaves too little."""
        for name in [name for name in self._sizes if not self._held[name]]:
            if sum(self._sizes.values()) + size <= self.quota_bytes:
                return
            _remove(self._directory / name)
            del self._sizes[name]
        if sum(self._sizes.values()) + size > self.quota_bytes:
            raise StorageError("what running programs use fills exec.cache_mib", full=True, remedy="Raise it")

    def _look_round(self) -> None:
        found = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in found:
            if path.name.startswith(_DRAFT):
                _remove(path)
            else:
                self._sizes[path.name] = _size(path)


class Incoming:
    """One blob on its way in: a context manager. Nothing of it stays unless `settle` came to its end."""

    def __init__(self, stock: Stock, directory: Path, name: str, size: int) -> None:
        self._stock = stock
        self._directory = directory
        self._name = name
        self._size = size
        self._state, self._count = hashlib.sha256(), 0
        descriptor, path = tempfile.mkstemp(dir=directory, prefix=_DRAFT)
        self._file = os.fdopen(descriptor, "w+b")
        self._draft = Path(path)

    @property
    def sha256(self) -> str:
        """What is expected."""
        return self._name.partition("-")[2]

    def write(self, piece: bytes) -> None:
        """Add what came. Raises EngineError when it is more than announced, StorageError."""
        self._count += len(piece)
        if self._count > self._size:
            raise EngineError(Reason.BLOB_UNAVAILABLE, f"{self._name} has more than the {self._size} bytes announced")
        self._state.update(piece)
        try:
            self._file.write(piece)
        except OSError as error:
            raise _storage_error(self._directory, error) from error

    def restart(self) -> None:
        """Forget what came: the connection broke."""
        self._file.seek(0)
        self._file.truncate()
        self._state, self._count = hashlib.sha256(), 0

    async def settle(self) -> None:
        """All has come: check and keep it, durable when this returns.

        Raises EngineError(BLOB_UNAVAILABLE) when it is something else, EngineError(BUNDLE_REFUSED), StorageError.
        """
        if (self._count, self._state.hexdigest()) != (self._size, self.sha256):
            told = f"{self._count} bytes with SHA-256 {self._state.hexdigest()}"
            raise EngineError(Reason.BLOB_UNAVAILABLE, f"{self._name} came as {told}, announced were {self._size}")
        try:
            await asyncio.to_thread(self._keep)
        except ArchiveError as error:
            raise EngineError(Reason.BUNDLE_REFUSED, f"{self._name}: {error}") from error
        except OSError as error:
            raise _storage_error(self._directory, error) from error
        self._stock.admit(self._name, self._size)

    def _keep(self) -> None:
        self._file.flush()
        target = self._directory / self._name
        if self._name.startswith("bundle-"):
            tree = self._draft.with_name(f"{self._draft.name}-tree")
            try:
                unpack(self._file.fileno(), os.fsencode(tree))
                tree.rename(target)
            finally:
                _remove(tree)
        else:
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            self._draft.rename(target)
        sync_directory(self._directory)

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*"))


def _storage_error(directory: Path, error: OSError) -> StorageError:
    full = error.errno in _FULL
    return StorageError(
        f"{directory} cannot be written: {error.strerror}",
        full=full,
        remedy="Free space there" if full else "Check the disk, and who may write there",
    )
