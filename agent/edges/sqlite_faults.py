"""What SQLite and the disk report, classified."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from agent.core.errors import StorageError
from agent.edges.durable import NO_ROOM, REMEDY_FOR_ROOM

_LITTLE_SPACE_BYTES = 1 << 20
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# A table that is gone from the schema; a sector that the disk does not give.
_UNREADABLE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}


class DamagedError(Exception):
    """The file is no sound database, or what it holds is not what was written. Work inside it may raise this."""


class DamagedLogError(DamagedError):
    """Transactions that were flushed lie behind a damaged place in the write-ahead log, where SQLite does not look."""

    def __init__(self, log: bytes) -> None:
        super().__init__("its write-ahead log holds transactions behind a damaged place")
        self.log = log
        """As it was: SQLite throws the log away when it closes the file."""


def is_damage(error: BaseException) -> bool:
    """Whether the file itself is bad, rather than the disk, the statement or the moment."""
    return isinstance(error, DamagedError) or _code(error) in _DAMAGE


def is_unreadable(error: BaseException) -> bool:
    """Whether this row, or table, of a damaged file cannot be read at all; otherwise another time it may be."""
    return is_damage(error) or getattr(error, "sqlite_errorcode", 0) in _UNREADABLE


def classified(error: Exception, path: Path) -> Exception:
    """A StorageError for what the disk or SQLite reports; anything else is a bug and stays what it is."""
    if not isinstance(error, (DamagedError, sqlite3.Error, OSError)):
        return error
    if _is_full(error, path):
        storage = StorageError(
            f"the disk with {path} takes nothing: {error}",
            full=True,
            remedy=f"{REMEDY_FOR_ROOM}, and nothing that was kept is lost",
        )
    elif _code(error) == sqlite3.SQLITE_BUSY:
        storage = StorageError(f"{path} is in use by another process", remedy="Is another agent using this state_dir?")
    else:
        storage = StorageError(f"{path} cannot be used: {error}", remedy="Check the disk, and who may write there")
    storage.__cause__ = error
    return storage


def _code(error: BaseException) -> int:
    """SQLite's primary result code; 0 when the error has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_full(error: Exception, path: Path) -> bool:
    """SQLite says "I/O error" where it could not grow its shared memory, so there the free space decides."""
    if _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY) or getattr(error, "errno", 0) in NO_ROOM:
        return True
    if _code(error) not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and not isinstance(error, OSError):
        return False
    try:
        space = os.statvfs(path.parent)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < _LITTLE_SPACE_BYTES
