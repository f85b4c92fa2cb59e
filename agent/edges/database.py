"""SQLite with one thread that writes and one that reads: many callers share one flush to disk, who reads waits for
none, and damage or a full disk is survived."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from agent.edges.durable import sync_directory, sync_file
from agent.edges.lane import Lane
from agent.edges.salvage import DamagedFile, open_damaged
from agent.edges.sqlite_faults import DamagedError, DamagedLogError, classified, is_damage
from agent.edges.sqlite_file import (
    BUSY_TIMEOUT_S,
    Migrations,
    Work,
    copy_with_log,
    move_aside,
    open_beside,
    open_file,
    remove,
)
from agent.edges.wal import mended

T = TypeVar("T")


class _Write(NamedTuple):
    work: Work[Any]
    flush: bool


Salvage = Callable[[DamagedFile, sqlite3.Connection], str]
"""Brings over what can still be read, in transactions of its own; returns what that was, in words."""

GROUP_MAX = 256
"""Pieces of work that share a flush. More gain nothing: the flush is then below 1 % of the work."""


class Database:
    """One database file. Raises StorageError when it cannot be used.

    A damaged one is put aside and replaced by a fresh one instead, now or at any later time; `salvage` brings over what
    can still be read. `recovered` is told so in words, from any thread, before the work that met the damage is done.
    """

    def __init__(
        self,
        path: Path,
        migrations: Migrations,
        recovered: Callable[[str], None],
        *,
        salvage: Salvage | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._migrations = migrations
        self._recovered = recovered
        self._salvage = salvage
        self._rescued = Path(f"{path}.rescued")
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._beside: sqlite3.Connection | None = None
        self._beside_in_use = threading.Lock()
        self._flushes = True
        """Whether the connection flushes what it commits."""
        try:
            self._open_sound()
        except (sqlite3.Error, OSError) as error:
            raise classified(error, path) from error
        self._writes: Lane[_Write, Any] = Lane(f"{path.name}, writing", self._write, group_max=GROUP_MAX)
        self._reads: Lane[Work[Any], Any] = Lane(f"{path.name}, reading", self._read, group_max=GROUP_MAX)

    async def run(self, work: Work[T]) -> T:
        """Run `work` in a transaction that is durable when this returns. Raises StorageError."""
        outcome: T = await self._writes.do(_Write(work, flush=True))
        return outcome

    async def run_unflushed(self, work: Work[T]) -> T:
        """As `run`, for what may be done again: the next `run` makes it durable, and until then a power cut undoes it.

        A crash of the process does not. Raises StorageError.
        """
        outcome: T = await self._writes.do(_Write(work, flush=False))
        return outcome

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which changes nothing, on one state of the file: whatever `run` finished before is in it.

        It waits for no writer, neither ours nor another process's. Raises StorageError.
        """
        outcome: T
        try:
            outcome = await self._reads.do(work)
        except (DamagedError, sqlite3.Error, OSError):  # the writer looks again, and puts a damaged file aside
            outcome = await self._writes.do(_Write(work, flush=False))
        return outcome

    async def close(self) -> None:
        """Finish what was asked for, then close. Idempotent."""
        await self._reads.close()
        await self._writes.close()
        self._close_files()

    # ----------------------------------------------------------------- in the threads

    def _write(self, writes: list[_Write]) -> list[Any]:
        """All together; when that fails, each alone, so that one bad piece of work harms no other."""
        try:
            return self._commit([write.work for write in writes], flush=any(write.flush for write in writes))
        except Exception as error:  # noqa: BLE001  (whatever a work raises belongs to its caller)
            if len(writes) == 1:
                return [classified(error, self._path)]
        return [outcome for write in writes for outcome in self._write([write])]

    def _commit(self, works: list[Work[Any]], *, flush: bool) -> list[Any]:
        try:
            return _transact(self._writing(flush=flush), "BEGIN IMMEDIATE", works)
        except (DamagedError, sqlite3.DatabaseError) as error:
            if not is_damage(error):
                raise
            self._replace(error)
            return _transact(self._writing(flush=flush), "BEGIN IMMEDIATE", works)

    def _writing(self, *, flush: bool) -> sqlite3.Connection:
        """The connection, told when to flush: FULL does at each commit, NORMAL leaves it to the next that is FULL."""
        connection = self._connection or self._open_sound()
        if flush is not self._flushes:
            connection.execute(f"PRAGMA synchronous = {'FULL' if flush else 'NORMAL'}")
            self._flushes = flush
        return connection

    def _read(self, works: list[Work[Any]]) -> list[Any]:
        """Errors stay what they are: `read` turns to the writer then."""
        with self._beside_in_use:
            try:
                if self._beside is None:
                    self._beside = open_beside(self._path, self._busy_timeout_s)
                return _transact(self._beside, "BEGIN", works)
            except Exception as error:  # noqa: BLE001  (whatever a work raises belongs to its caller)
                if len(works) == 1:
                    return [error]
        return [outcome for work in works for outcome in self._read([work])]

    # ----------------------------------------------------------------- opening

    def _open_sound(self) -> sqlite3.Connection:
        """Open the file, or a fresh one in place of a damaged one."""
        self._end_replacing()
        try:
            self._connection = open_file(self._path, self._migrations, self._busy_timeout_s)
        except (DamagedError, sqlite3.DatabaseError) as error:
            if not is_damage(error):
                raise
            self._replace(error)
            self._connection = open_file(self._path, self._migrations, self._busy_timeout_s)
        return self._connection

    def _replace(self, error: Exception) -> None:
        """Put a fresh file in place of the damaged one, which is kept, with its log, under a free name."""
        with self._beside_in_use:  # nobody opens the old file again by its name
            self._close_files()
            rescued = self._rescue(error)
            aside = move_aside(self._path)
            if isinstance(error, DamagedLogError):
                Path(f"{aside}-wal").write_bytes(error.log)
            self._end_replacing()
        brought = f" ({rescued})" if rescued else ""
        self._recovered(
            f"{self._path.name} was damaged ({error}); it is kept as {aside.name} and a fresh one is in use{brought}"
        )

    def _rescue(self, error: Exception) -> str:
        """Fill a file that is to take the place of the damaged one. Until then a crash, or a full disk, costs nothing
        but the work: it is done again."""
        if self._salvage is None:
            return ""
        if not isinstance(error, DamagedLogError):
            return self._rescue_from(self._path)
        mended_path = Path(f"{self._path}.mended")
        copy_with_log(self._path, mended(error.log), mended_path)
        try:
            return self._rescue_from(mended_path)
        finally:
            remove(mended_path)

    def _rescue_from(self, source: Path) -> str:
        assert self._salvage is not None
        remove(self._rescued)
        with (
            closing(open_file(self._rescued, self._migrations, self._busy_timeout_s)) as fresh,
            open_damaged(source) as damaged,
        ):
            # Nobody reads it before it is whole: no log, one flush.
            fresh.execute("PRAGMA journal_mode = MEMORY")
            fresh.execute("PRAGMA synchronous = OFF")
            told = self._salvage(damaged, fresh)
        sync_file(self._rescued)
        return told

    def _end_replacing(self) -> None:
        """What was rescued becomes the file once the damaged one is out of the way; before, it counts for nothing."""
        if not self._rescued.exists():
            return
        if self._path.exists():
            remove(self._rescued)
        else:
            self._rescued.rename(self._path)
            sync_directory(self._path.parent)

    def _close_files(self) -> None:
        """The reader's first: the last to close a file tidies its log away, by name."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._flushes = True


def _transact(connection: sqlite3.Connection, begin: str, works: list[Work[Any]]) -> list[Any]:
    try:
        connection.execute(begin)
        outcomes = [work(connection) for work in works]
        connection.execute("COMMIT")
    except BaseException:  # whatever it was, no half of a transaction stays
        if connection.in_transaction:  # on a full disk SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise
    return outcomes
