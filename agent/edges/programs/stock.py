"""What programs need, kept by digest: bundles unpacked, inputs as files. Whole and checked, or not there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from agent.core.archive import ArchiveError
from agent.core.errors import EngineError, StorageError
from agent.core.model import ExecInput, Reason
from agent.edges.durable import NO_ROOM, REMEDY_FOR_ROOM, make_private_directory, sync_directory
from agent.edges.programs.unpack import unpack

_DRAFT = ".part-"


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
        self._evicted = itertools.count()
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

    async def incoming(self, name: str, size: int) -> Incoming:
        """Takes in one of `lacking`; makes room for it first. Raises StorageError."""
        try:
            await self._make_room(size)
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

    async def _make_room(self, size: int) -> None:
        """Raises OSError, StorageError when what is held leaves too little."""
        if evicted := list(self._evict(size)):
            await asyncio.to_thread(self._discard, evicted)
        if sum(self._sizes.values()) + size > self.quota_bytes:
            raise StorageError("what running programs use fills exec.cache_mib", full=True, remedy="Raise it")

    def _evict(self, size: int) -> Iterator[Path]:
        """Put aside what was used least recently, until `size` fits. What bears its own name is whole: no removal, cut
        short by whatever, leaves part of a bundle under it."""
        for name in [name for name in self._sizes if not self._held[name]]:
            if sum(self._sizes.values()) + size <= self.quota_bytes:
                return
            aside = self._directory / f"{_DRAFT}evicted-{next(self._evicted)}"
            with contextlib.suppress(FileNotFoundError):  # somebody else made room
                (self._directory / name).rename(aside)
            del self._sizes[name]
            yield aside

    def _discard(self, evicted: Sequence[Path]) -> None:
        """Blocks: a bundle may have thousands of files. Raises OSError; the next start then removes the rest."""
        sync_directory(self._directory)
        for path in evicted:
            _remove(path)

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
        """Forget what came: the connection broke. Raises StorageError."""
        try:
            self._file.seek(0)
            self._file.truncate()
        except OSError as error:
            raise _storage_error(self._directory, error) from error
        self._state, self._count = hashlib.sha256(), 0

    async def settle(self) -> None:
        """All has come: check and keep it, durable when this returns. A cancel waits for the thread that does it.

        Raises EngineError(BLOB_UNAVAILABLE) when it is something else, EngineError(BUNDLE_REFUSED), StorageError.
        """
        if (self._count, self._state.hexdigest()) != (self._size, self.sha256):
            told = f"{self._count} bytes with SHA-256 {self._state.hexdigest()}"
            raise EngineError(Reason.BLOB_UNAVAILABLE, f"{self._name} came as {told}, announced were {self._size}")
        keeping = asyncio.get_running_loop().run_in_executor(None, self._keep)
        try:
            await asyncio.shield(keeping)
        except asyncio.CancelledError:  # not before the thread is done: it uses the file, and what it kept is there
            await _ended(keeping)
            if not keeping.cancelled() and keeping.exception() is None:
                self._stock.admit(self._name, self._size)
            raise
        except ArchiveError as error:
            raise EngineError(Reason.BUNDLE_REFUSED, f"{self._name}: {error}") from error
        except OSError as error:
            raise _storage_error(self._directory, error) from error
        self._stock.admit(self._name, self._size)

    def _keep(self) -> None:
        self._file.flush()
        target = self._directory / self._name
        if not target.exists():  # one that is there was put there whole, and only not made durable
            self._place(target)
        sync_directory(self._directory)

    def _place(self, target: Path) -> None:
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

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what it still wants to write is not wanted
            self._file.close()
        with contextlib.suppress(OSError):  # the next start removes it
            self._draft.unlink(missing_ok=True)


async def _ended(job: asyncio.Future[None]) -> None:
    """Wait for its end, however often we are cancelled meanwhile."""
    while not job.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([job])


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
    full = error.errno in NO_ROOM
    return StorageError(
        f"{directory} cannot be written: {error.strerror}",
        full=full,
        remedy=REMEDY_FOR_ROOM if full else "Check the disk, and who may write there",
    )
