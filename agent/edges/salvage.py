"""Reads what can still be read of a damaged database, row by row, and changes nothing in it.

Raises sqlite3.Error where the fault is not the damage: a disk without room for SQLite's own files, say.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from agent.edges.sqlite_faults import is_unreadable

WALK_MAX = 5_000_000
"""Rows of one table. A damaged tree may lead round in circles."""
PROBE_MAX = 20_000
"""Numbers that are tried one by one where the way along the rows is broken: 0.2 s."""


class DamagedFile:
    """Tables whose rows are numbered by an INTEGER PRIMARY KEY `seq`."""

    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def numbers(self, table: str) -> list[int]:
        """Of every row that can be reached: from both ends up to the damage, and one by one in between."""
        upwards, whole = self._walk(f"SELECT seq FROM {table} ORDER BY seq")  # noqa: S608
        if whole:
            return upwards
        downwards, _ = self._walk(f"SELECT seq FROM {table} ORDER BY seq DESC")  # noqa: S608
        low = max(upwards, default=0)
        high = min((seq for seq in downwards if seq > low), default=low + PROBE_MAX)
        between = (seq for seq in range(low + 1, min(high, low + PROBE_MAX)) if self.row(table, "1", seq))
        return sorted({*upwards, *downwards, *between})

    def row(self, table: str, columns: str, seq: int) -> tuple[Any, ...] | None:
        """None when it cannot be read, or there is none. Texts are decoded strictly."""
        query = f"SELECT {columns} FROM {table} NOT INDEXED WHERE seq = ?"  # noqa: S608
        try:
            found: tuple[Any, ...] | None = self._file.execute(query, (seq,)).fetchone()
        except UnicodeDecodeError:
            return None
        except sqlite3.DatabaseError as error:
            if not is_unreadable(error):
                raise
            return None
        return found

    def _walk(self, query: str) -> tuple[list[int], bool]:
        """What a walk finds before it hits damage, and whether it came to its end."""
        found: list[int] = []
        try:
            with closing(self._file.execute(query)) as rows:
                for (seq,) in rows:
                    if len(found) == WALK_MAX or not isinstance(seq, int):
                        return found, False
                    found.append(seq)
        except sqlite3.DatabaseError as error:
            if not is_unreadable(error):
                raise
            return found, False
        return found, True


@contextmanager
def open_damaged(path: Path) -> Iterator[DamagedFile]:
    """The file with its log, neither of which is changed. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as file:
        file.text_factory = lambda raw: raw.decode()
        # Else SQLite reads nothing at all of a file that was cut short, or whose schema is damaged in part.
        file.execute("PRAGMA writable_schema = ON")
        file.execute("PRAGMA cell_size_check = ON")
        yield DamagedFile(file)


def told(counts: Iterable[tuple[int, str]]) -> str:
    """`3 x, 1 y`; empty without any."""
    return ", ".join(f"{count} {what}" for count, what in counts if count)
