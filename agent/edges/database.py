"""SQLite with one writer thread: many callers share one flush to disk, and damage or a full disk is survived."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.core.errors import StorageError
from agent.edges.durable import make_private_directory, sync_directory

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
"""Runs inside a transaction. It may run twice (a failed group is retried one by one), so it keeps no state."""

Migrations = Sequence[Sequence[str]]
"""Statements that lead from schema version n to n + 1, at index n."""

MAX_GROUP = 256
"""Pieces of work that share a flush. More gain nothing: the flush is then below 1 % of the work."""
_CHECK_LIMIT_BYTES = 64 << 20
"""A database up to this size is checked whole when it is opened (about 0.1 s); damage to a larger one shows in use."""
_BUSY_TIMEOUT_S = 5.0
_LITTLE_SPACE_BYTES = 1 << 20
_SIDECARS = ("", "-wal", "-shm")
_READ, _WRITE = "BEGIN", "BEGIN IMMEDIATE"
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class DamagedError(Exception):
    """The file is no sound database, or what it holds is not what was written. A job may raise it."""


@dataclass(frozen=True)
class _Job:
    work: Work[Any]
    begin: str
    done: Future[Any]


class Database:
    """One database file. Raises StorageError when it cannot be used.

    A damaged one is put aside and replaced by a fresh one instead, now or at any later time. `recovered` is told so in
    words, from any thread, before the work that met the damage is done.
    """

    def __init__(
        self,
        path: Path,
        migrations: Migrations,
        recovered: Callable[[str], None],
        *,
        busy_timeout_s: float = _BUSY_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._migrations = migrations
        self._recovered = recovered
        self._busy_timeout_s = busy_timeout_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        try:
            self._open_sound()
        except (sqlite3.Error, OSError) as error:
            raise classified(error, path) from error
        self._writer = threading.Thread(target=self._write, name=f"writer:{path.name}", daemon=True)
        self._writer.start()

    async def run(self, work: Work[T]) -> T:
        """Run `work` in a transaction that is durable when this returns. Raises StorageError."""
        return await self._do(work, _WRITE)

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which changes nothing, on one state of the file: whatever `run` finished before is in it.

        It waits for no lock and no flush of its own, so another writer of the file does not hold it up. Raises
        StorageError.
        """
        return await self._do(work, _READ)

    async def _do(self, work: Work[T], begin: str) -> T:
        if self._closed:
            raise StorageError(f"{self._path.name} is closed")
        done: Future[T] = Future()
        self._jobs.put(_Job(work, begin, done))
        return await asyncio.wrap_future(done)

    async def close(self) -> None:
        """Finish what was asked for, then close. Idempotent."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)

    # ----------------------------------------------------------------- the writer thread

    def _write(self) -> None:
        open_ = True
        while open_:
            jobs, open_ = self._take()
            wanted = [job for job in jobs if job.done.set_running_or_notify_cancel()]
            for begin in (_READ, _WRITE):  # readers first: they need not wait for a flush
                self._settle([job for job in wanted if job.begin is begin])
        if self._connection is not None:
            self._connection.close()

    def _take(self) -> tuple[list[_Job], bool]:
        """Wait for one job, then take along what has gathered meanwhile; False when it was the last."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == MAX_GROUP:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _settle(self, jobs: list[_Job]) -> None:
        """Do `jobs`, all of one kind, together; when that fails, each alone, so that one bad job harms no other."""
        if not jobs:
            return
        try:
            outcomes = self._commit(jobs[0].begin, [job.work for job in jobs])
        except Exception as error:  # noqa: BLE001  (whatever a job raises belongs to its caller; the thread goes on)
            if len(jobs) == 1:
                jobs[0].done.set_exception(classified(error, self._path))
                return
            for job in jobs:
                self._settle([job])
        else:
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.done.set_result(outcome)

    def _commit(self, begin: str, works: list[Work[Any]]) -> list[Any]:
        try:
            return self._transact(begin, works)
        except (DamagedError, sqlite3.DatabaseError) as error:
            if not _is_damage(error):
                raise
            self._put_aside(error)
            return self._transact(begin, works)

    def _transact(self, begin: str, works: list[Work[Any]]) -> list[Any]:
        connection = self._connection or self._open_sound()
        try:
            connection.execute(begin)
            outcomes = [work(connection) for work in works]
            connection.execute("COMMIT")
        except BaseException:  # whatever it was, no half of a transaction stays
            if connection.in_transaction:  # on a full disk SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            raise
        return outcomes

    # ----------------------------------------------------------------- opening

    def _open_sound(self) -> sqlite3.Connection:
        """Open the file, or a fresh one in place of a damaged one."""
        try:
            self._connection = _open(self._path, self._migrations, self._busy_timeout_s)
        except (DamagedError, sqlite3.DatabaseError) as error:
            if not _is_damage(error):
                raise
            self._put_aside(error)
            self._connection = _open(self._path, self._migrations, self._busy_timeout_s)
        return self._connection

    def _put_aside(self, error: Exception) -> None:
        """Keep the damaged file, with its log, under a free name: somebody may still rescue rows from it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        aside = _free_name(self._path)
        for suffix in _SIDECARS:
            source = Path(f"{self._path}{suffix}")
            if source.exists():
                source.rename(f"{aside}{suffix}")
        sync_directory(self._path.parent)
        self._recovered(
            f"{self._path.name} was damaged ({error}); it is kept as {aside.name} and a fresh one is in use"
        )


def read_only(path: Path, work: Work[T]) -> T | None:
    """Run `work` on a database that another process may be writing; None when there is none. Raises StorageError."""
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise classified(error, path) from error
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S)) as file:
            return work(file)
    except sqlite3.Error as error:
        raise classified(error, path) from error


def _open(path: Path, migrations: Migrations, busy_timeout_s: float) -> sqlite3.Connection:
    make_private_directory(path.parent)
    # SQLite would create it by the umask; its log files take over this mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_timeout_s)
    connection.text_factory = _text
    try:
        _prepare(connection, path)
        _migrate(connection, path, migrations)
    except BaseException:  # whatever it was, the file must not stay open
        connection.close()
        raise
    sync_directory(path.parent)
    return connection


def _text(raw: bytes) -> str:
    """SQLite's own check finds damage to its pages, not to what rows hold."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DamagedError("a text in it is no UTF-8") from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StorageError(
            f"the file system of {path} cannot hold a write-ahead log", remedy="Put state_dir on a local file system"
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {_CHECK_LIMIT_BYTES}")
    if path.stat().st_size <= _CHECK_LIMIT_BYTES:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DamagedError(verdict.splitlines()[-1])


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Migrations) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StorageError(
            f"{path} was written by a newer agent (schema {version}, this one knows {len(migrations)})",
            remedy="Install that version again, or move the file away",
        )
    for number, statements in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := Path(f"{path}.corrupt-{number}")).exists():
        number += 1
    return candidate


# --------------------------------------------------------------------------- what went wrong


def _code(error: BaseException) -> int:
    """SQLite's primary result code; 0 when the error has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_damage(error: BaseException) -> bool:
    return isinstance(error, DamagedError) or _code(error) in _DAMAGE


def classified(error: Exception, path: Path) -> Exception:
    """A StorageError for what the disk or SQLite reports; anything else is a bug and stays what it is."""
    if not isinstance(error, (sqlite3.Error, OSError)):
        return error
    if _is_full(error, path):
        storage = StorageError(
            f"the disk with {path} is full",
            full=True,
            remedy=f"Free space in {path.parent}; nothing that was kept is lost",
        )
    elif _code(error) == sqlite3.SQLITE_BUSY:
        storage = StorageError(f"{path} is in use by another process", remedy="Is another agent using this state_dir?")
    else:
        storage = StorageError(f"{path} cannot be used: {error}", remedy="Check the disk, and who may write there")
    storage.__cause__ = error
    return storage


def _is_full(error: Exception, path: Path) -> bool:
    """SQLite says "I/O error" where it could not grow its shared memory, so there the free space decides."""
    if _code(error) == sqlite3.SQLITE_FULL:
        return True
    if _code(error) not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and not isinstance(error, OSError):
        return False
    try:
        space = os.statvfs(path.parent)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < _LITTLE_SPACE_BYTES
