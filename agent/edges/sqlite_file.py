"""A database file: opened, checked, brought to the present schema, read from beside its owner, put aside.

While SQLite has the file open, nothing else in this process opens it, nor its `-shm`: the kernel drops all locks that a
process has on a file when the process closes any descriptor of it. The next reader would take itself for the first,
and empty the index of the log under us, which is SIGBUS (https://www.sqlite.org/howtocorrupt.html, section 2.2). SQLite
locks nothing in the log itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from agent.core.errors import StorageError
from agent.edges.durable import make_private_directory, sync_directory
from agent.edges.sqlite_faults import DamagedError, DamagedLogError, classified
from agent.edges.wal import loses_commits

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
"""Runs inside a transaction. It may run twice (a failed group is retried one by one), so it keeps no state."""

Migrations = Sequence[Sequence[str]]
"""Statements that lead from schema version n to n + 1, at index n."""

BUSY_TIMEOUT_S = 5.0
CHECK_LIMIT_BYTES = 64 << 20
"""A database up to this size is checked whole when it is opened (about 0.1 s); damage to a larger one shows in use."""
_FILES = ("-wal", "-shm", "")
"""The log before its database: a log that lies beside another database is played into that."""


def open_file(path: Path, migrations: Migrations, busy_timeout_s: float) -> sqlite3.Connection:
    """The one connection that writes; the file is made where there is none. Raises DamagedError, StorageError,
    sqlite3.Error and OSError."""
    make_private_directory(path.parent)
    # SQLite would create it by the umask; its log files take over this mode.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_timeout_s)
    connection.text_factory = _text
    try:
        _prepare(connection, path)
        _check_log(path)
        _migrate(connection, path, migrations)
    except BaseException:  # whatever it was, the file must not stay open
        connection.close()
        raise
    sync_directory(path.parent)
    return connection


def open_beside(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that only reads, beside the one that writes. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",  # never made here: a missing file is an error
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=busy_timeout_s,
    )
    connection.text_factory = _text
    connection.execute("PRAGMA query_only = ON")
    return connection


def read_only(path: Path, work: Work[T]) -> T | None:
    """Run `work` on a database that another process may be writing; None when there is none. Raises StorageError."""
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise classified(error, path) from error
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as file:
            return work(file)
    except (DamagedError, sqlite3.Error) as error:
        raise classified(error, path) from error


def move_aside(path: Path) -> Path:
    """Give the file, with its log, a free name, so that a fresh one can be made; returns that name. Raises OSError."""
    aside = _free_name(path)
    for suffix in _FILES:
        source = Path(f"{path}{suffix}")
        if source.exists():
            source.rename(f"{aside}{suffix}")
    sync_directory(path.parent)
    return aside


def copy_with_log(path: Path, log: bytes, copy: Path) -> None:
    """The database as `copy`, with `log` beside it. Raises OSError."""
    remove(copy)
    shutil.copyfile(path, copy)
    Path(f"{copy}-wal").write_bytes(log)


def remove(path: Path) -> None:
    """The file, with its log, if it is there. Raises OSError."""
    for suffix in _FILES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


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
    connection.execute(f"PRAGMA journal_size_limit = {CHECK_LIMIT_BYTES}")
    if path.stat().st_size <= CHECK_LIMIT_BYTES:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DamagedError(verdict.splitlines()[-1])


def _check_log(path: Path) -> None:
    """Before anything is written: SQLite goes on right behind the last frame that it trusts. Raises DamagedLogError."""
    try:
        log = Path(f"{path}-wal").read_bytes()
    except FileNotFoundError:  # there is none yet
        return
    if loses_commits(log):
        raise DamagedLogError(log)


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
