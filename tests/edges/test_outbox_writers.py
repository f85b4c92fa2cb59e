"""One thread writes the outbox for all: groups, callers that give up, work that fails, the end."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from agent.core.errors import StorageError
from agent.edges.database import Database
from agent.edges.outbox import SqliteOutbox
from agent.edges.sqlite_file import read_only
from tests.edges.test_outbox import outbox, path, row, sound
from tests.patience import PATIENCE_S

__all__ = ["outbox", "path"]


@pytest.mark.parametrize("busy", [False, True], ids=["in one turn of the loop", "while the disk is busy"])
async def test_writers_at_once_share_one_transaction(path: Path, busy: bool):
    database = Database(path, [["CREATE TABLE t (x INTEGER UNIQUE) STRICT"]], sound)
    released = threading.Event()
    held = asyncio.create_task(database.run(lambda file: released.wait(PATIENCE_S))) if busy else None
    await asyncio.sleep(0)

    def insert(number: int):
        """Returns how many rows of its own transaction another connection does not see yet."""

        def work(file: sqlite3.Connection) -> int:
            file.execute("INSERT INTO t VALUES (?)", (number,))
            return _count(file) - (read_only(path, _count) or 0)

        return work

    writers = [asyncio.create_task(database.run(insert(number))) for number in range(64)]
    if held:
        await asyncio.sleep(0)
        released.set()
        await held
    assert await asyncio.gather(*writers) == list(range(1, 65))
    assert read_only(path, _count) == 64
    await database.close()


async def test_who_looks_waits_for_no_writer(outbox: SqliteOutbox):
    await outbox.put(row("t1"))
    released = threading.Event()
    held = asyncio.create_task(outbox._database.run(lambda file: released.wait(PATIENCE_S)))
    await asyncio.sleep(0)
    assert await outbox.settled_many([(row("t1").key, "t1:1"), (row("t2").key, "t2:1")]) == [True, False]
    assert [item.key.task_id for item in await outbox.pending(9)] == ["t1"]
    assert not held.done()
    released.set()
    assert await held


async def test_a_caller_that_gives_up_harms_nobody_in_its_group(outbox: SqliteOutbox):
    puts = [asyncio.create_task(outbox.put(row(f"t{number}"))) for number in range(3)]
    await asyncio.sleep(0)
    puts[1].cancel()
    await asyncio.gather(puts[0], puts[2])
    assert {"t0", "t2"} <= {item.key.task_id for item in await outbox.pending(9)}


def _count(file: sqlite3.Connection) -> int:
    return file.execute("SELECT count(*) FROM t").fetchone()[0]


async def test_one_bad_piece_of_work_harms_no_other(path: Path):
    database = Database(path, [["CREATE TABLE t (x INTEGER UNIQUE) STRICT"]], sound)

    def insert(number: int):
        return lambda file: file.execute("INSERT INTO t VALUES (?)", (number,)).rowcount

    def bug(file: sqlite3.Connection) -> None:
        file.execute("INSERT INTO t VALUES (99)")
        raise KeyError("a bug")

    outcomes = await asyncio.gather(
        *(database.run(insert(number)) for number in (1, 2)),
        database.run(bug),
        database.run(insert(1)),
        database.run(insert(3)),
        return_exceptions=True,
    )
    assert outcomes[:2] == [1, 1]
    assert isinstance(outcomes[2], KeyError)
    assert isinstance(outcomes[3], StorageError)
    assert outcomes[4] == 1
    assert await database.run(lambda file: file.execute("SELECT x FROM t ORDER BY x").fetchall()) == [(1,), (2,), (3,)]
    await database.close()


async def test_closing_finishes_what_was_asked_for_and_refuses_more(path: Path, outbox: SqliteOutbox):
    puts = [asyncio.create_task(outbox.put(row(f"t{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    await outbox.close()
    await asyncio.gather(*puts)
    with pytest.raises(StorageError, match="closed"):
        await outbox.put(row("late"))
    again = await SqliteOutbox.open(path, sound)
    assert len(await again.pending(99)) == 20
    await again.close()


async def test_a_file_that_another_process_holds_is_told_so_can_be_read_and_works_again_later(path: Path):
    database = Database(path, [["CREATE TABLE t (x INTEGER) STRICT"]], sound, busy_timeout_s=0.01)
    await database.run(lambda file: file.execute("INSERT INTO t VALUES (1)"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="in use by another process"):
            await database.run(lambda file: file.execute("INSERT INTO t VALUES (2)"))
        assert await database.read(_count) == 1  # who only reads waits for nobody
        other.execute("ROLLBACK")
    await database.run(lambda file: file.execute("INSERT INTO t VALUES (3)"))
    assert read_only(path, _count) == 2
    await database.close()


WRITER = """
import subprocess, sys
from pathlib import Path
from agent.edges.sqlite_file import open_beside, open_file
path, reader, again = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "again"
tables = [["CREATE TABLE t (x INTEGER) STRICT"]]
file = open_file(path, tables, 5.0)
if again:  # as after a fault, while its own reader has it open
    beside = open_beside(path, 5.0)
    beside.execute("SELECT * FROM t").fetchall()
    file.close()
    file = open_file(path, tables, 5.0)
file.execute("BEGIN IMMEDIATE")
file.execute("INSERT INTO t VALUES (1)")
subprocess.run([sys.executable, "-c", reader, path], check=True)
file.execute("COMMIT")
subprocess.run([sys.executable, "-c", reader, path, "1"], check=True)
"""
READER = """
import sqlite3, sys
from contextlib import closing
with closing(sqlite3.connect(sys.argv[1])) as file:
    found = file.execute("SELECT x FROM t").fetchall()
assert len(found) == len(sys.argv) - 2, found
"""


@pytest.mark.parametrize("opened", ["once", "again"])
def test_another_process_that_reads_takes_nothing_from_under_the_one_that_writes(path: Path, opened: str):
    """SQLite's locks had gone with a look into its files: the writer died of SIGBUS without a word, or lost its log."""
    said = subprocess.run([sys.executable, "-c", WRITER, path, READER, opened], capture_output=True, check=False)
    assert (said.returncode, said.stderr.decode()) == (0, "")
