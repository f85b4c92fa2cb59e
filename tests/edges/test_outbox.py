from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.core import wire
from agent.core.errors import ConflictError, StorageError
from agent.core.model import LeaseKey, Signed
from agent.edges.database import Database
from agent.edges.outbox import ANSWER_CHARS, SqliteOutbox, read_bundle, read_ledger
from agent.ports import OutboxRow
from tests.builders import signed


def row(task_id: str = "t1", *, attempt: int = 1, idem_key: str = "", output: str | None = "out") -> OutboxRow:
    return OutboxRow(
        key=LeaseKey(task_id=task_id, attempt=attempt, fence=3),
        idem_key=idem_key or f"{task_id}:{attempt}",
        offer=signed('{"offer":1}'),
        result=signed('{"result":"é"}'),
        output=output,
    )


def receipt(of: OutboxRow, amount_micros: int = 5, **changes) -> tuple[Signed, wire.ReceiptBody]:
    fields = {
        "receipt_id": "r",
        "node_id": "n",
        "task_id": of.key.task_id,
        "attempt": of.key.attempt,
        "fence": of.key.fence,
        "idem_key": of.idem_key,
        "status": wire.ReceiptStatus.ACCEPTED,
        "result_sha256": "",
        "received_at": 1_700_000_000,
        "amount_micros": amount_micros,
        "currency": "credit",
    }
    return signed('{"receipt":1}'), wire.ReceiptBody(**{**fields, **changes})


def sound(what: str) -> None:
    """For files of which no damage is expected."""
    raise AssertionError(what)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.db"


@pytest.fixture
async def outbox(path: Path):
    opened = await SqliteOutbox.open(path, sound)
    yield opened
    await opened.close()


async def test_rows_come_back_as_they_were_oldest_first(outbox: SqliteOutbox):
    rows = [row(f"t{number}", output=None if number % 2 else "x\x00é") for number in range(5)]
    for item in rows:
        await outbox.put(item)
    assert await outbox.pending(99) == rows
    assert await outbox.pending(2) == rows[:2]


async def test_what_was_put_survives_a_restart(path: Path, outbox: SqliteOutbox):
    await outbox.put(row())
    await outbox.close()
    again = await SqliteOutbox.open(path, sound)
    assert await again.pending(9) == [row()]
    await again.close()


async def test_files_are_private(path: Path, outbox: SqliteOutbox):
    await outbox.put(row())
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_the_database_is_flushed_on_every_commit(path: Path):
    database = Database(path, [["CREATE TABLE t (x) STRICT".replace("(x)", "(x INTEGER)")]], sound)
    settings = await database.run(
        lambda file: [file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    )
    assert settings == ["wal", 2]
    await database.close()


async def test_what_may_be_done_again_waits_for_the_flush_of_something_else(path: Path):
    database = Database(path, [["CREATE TABLE t (x INTEGER) STRICT"]], sound)

    def setting(file: sqlite3.Connection) -> int:
        return file.execute("PRAGMA synchronous").fetchone()[0]

    assert [await database.run_unflushed(setting), await database.run(setting)] == [1, 2]
    assert await database.run_unflushed(setting) == 1
    assert await asyncio.gather(database.run_unflushed(setting), database.run(setting)) == [2, 2]
    await database.close()


async def test_a_receipt_survives_a_killed_process(path: Path, outbox: SqliteOutbox, tmp_path: Path):
    await outbox.put(row())
    await outbox.settle(row(), *receipt(row()))
    shutil.copytree(path.parent, tmp_path / "copy")
    again = await SqliteOutbox.open(tmp_path / "copy" / path.name, sound)
    assert await again.pending(9) == []
    assert [line.idem_key for line in read_ledger(tmp_path / "copy" / path.name, 9)] == ["t1:1"]
    await again.close()


async def test_the_same_key_again_is_no_error_and_no_second_row(outbox: SqliteOutbox):
    await outbox.put(row())
    await outbox.put(row())
    assert len(await outbox.pending(9)) == 1
    await outbox.settle(row(), *receipt(row()))
    await outbox.put(row())
    assert await outbox.pending(9) == []


async def test_an_attempt_ends_once(outbox: SqliteOutbox):
    await outbox.put(row())
    with pytest.raises(ConflictError, match="ended before"):
        await outbox.put(row(idem_key="other"))
    await outbox.settle(row(), *receipt(row()))
    with pytest.raises(ConflictError, match="ended before"):
        await outbox.put(row(idem_key="other"))
    await outbox.put(row(attempt=2))


async def test_settling_moves_the_row_into_the_ledger_with_its_bundle(path: Path, outbox: SqliteOutbox):
    await outbox.put(row())
    assert await outbox.settled(row().key, "t1:1")
    signed_receipt, body = receipt(row(), 1_234_567)
    await outbox.settle(row(), signed_receipt, body)
    assert await outbox.pending(9) == []
    assert await outbox.settled(row().key, "t1:1")
    (line,) = read_ledger(path, 9)
    assert (line.task_id, line.attempt, line.amount_micros, line.currency) == ("t1", 1, 1_234_567, "credit")
    bundle = read_bundle(path, "t1")
    assert bundle == wire.ReceiptBundle(
        coordinator_key=signed_receipt.key, offer=row().offer, result=row().result, receipt=signed_receipt, output="out"
    )
    assert read_bundle(path, "t2") is None


@pytest.mark.parametrize("receipted", [False, True], ids=["waiting", "settled"])
async def test_an_offer_is_known_by_its_key_and_by_its_attempt(outbox: SqliteOutbox, receipted: bool):
    await outbox.put(row())
    if receipted:
        await outbox.settle(row(), *receipt(row()))
    other_fence = LeaseKey(task_id="t1", attempt=1, fence=99)
    assert await outbox.settled(LeaseKey(task_id="t2", attempt=1, fence=3), "t1:1")
    assert await outbox.settled(other_fence, "another key")
    assert not await outbox.settled(LeaseKey(task_id="t1", attempt=2, fence=3), "t1:2")


async def test_a_look_at_many_answers_each(outbox: SqliteOutbox):
    items = [row(f"t{number}", idem_key="key'\"\\é" if number == 1 else "") for number in range(4)]
    for item in items[:2]:
        await outbox.put(item)
    await outbox.settle(items[0], *receipt(items[0]))
    assert await outbox.settled_many([(item.key, item.idem_key) for item in items]) == [True, True, False, False]
    assert await outbox.settled_many([(items[2].key, items[1].idem_key), (items[1].key, "other")]) == [True, True]
    assert await outbox.settled_many([]) == []


async def test_what_waits_is_told_without_its_content(outbox: SqliteOutbox):
    rows = [row(f"t{number}", attempt=number) for number in range(3)]
    for item in rows:
        await outbox.put(item)
    await outbox.settle(rows[0], *receipt(rows[0]))
    assert list((await outbox.unsent()).items()) == [("t1:1", rows[1].key), ("t2:2", rows[2].key)]


async def test_rows_whose_time_has_not_come_are_passed_over(outbox: SqliteOutbox):
    rows = [row(f"t{number}") for number in range(6)]
    for item in rows:
        await outbox.put(item)
    assert await outbox.pending(2, {"t0:1", "t2:1"}) == [rows[1], rows[3]]
    assert await outbox.pending(2, {item.idem_key for item in rows}) == []


async def test_a_backlog_of_large_outputs_comes_in_portions(outbox: SqliteOutbox):
    rows = [row(f"t{number}", output="x" * (ANSWER_CHARS // 2)) for number in range(4)]
    for item in rows:
        await outbox.put(item)
    first = await outbox.pending(99)
    assert first == rows[:2]
    assert await outbox.pending(99, {item.idem_key for item in first}) == rows[2:]


async def test_an_output_larger_than_a_portion_comes_alone(outbox: SqliteOutbox):
    rows = [row("t1", output="x" * (ANSWER_CHARS + 1)), row("t2")]
    for item in rows:
        await outbox.put(item)
    assert await outbox.pending(99) == rows[:1]


async def test_settling_twice_changes_nothing(path: Path, outbox: SqliteOutbox):
    await outbox.put(row())
    await outbox.settle(row(), *receipt(row()))
    await outbox.settle(row(), *receipt(row(), 999))
    assert [line.amount_micros for line in read_ledger(path, 9)] == [5]


async def test_the_ledger_is_newest_first_and_the_accepted_bundle_wins(path: Path, outbox: SqliteOutbox):
    for attempt, status in ((1, wire.ReceiptStatus.ACCEPTED), (2, wire.ReceiptStatus.STALE)):
        item = row(attempt=attempt, output=status.value)
        await outbox.put(item)
        await outbox.settle(item, *receipt(item, status=status))
    assert [line.attempt for line in read_ledger(path, 9)] == [2, 1]
    assert [line.attempt for line in read_ledger(path, 1)] == [2]
    bundle = read_bundle(path, "t1")
    assert bundle is not None
    assert bundle.output == "accepted"


def test_there_is_no_ledger_where_no_agent_ran(tmp_path: Path):
    assert read_ledger(tmp_path / "outbox.db", 9) == []
    assert read_bundle(tmp_path / "outbox.db", "t1") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        read_ledger(tmp_path / "file" / "outbox.db", 9)


async def test_old_bundles_make_room_but_their_lines_stay(path: Path):
    outbox = await SqliteOutbox.open(path, sound, budget_bytes=1 << 20)
    for number in range(300):
        item = row(f"t{number}", output="x" * 10_000)
        await outbox.put(item)
        await outbox.settle(item, *receipt(item))
    assert len(read_ledger(path, 999)) == 300
    assert read_bundle(path, "t0") is None
    assert read_bundle(path, "t299") is not None
    await outbox.close()
    assert path.stat().st_size < 3 << 20


async def test_a_newer_schema_is_refused_and_left_alone(path: Path, outbox: SqliteOutbox):
    await outbox.close()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="newer agent"):
        await SqliteOutbox.open(path, sound)
    assert [file.name for file in path.parent.iterdir() if "corrupt" in file.name] == []


async def test_an_older_schema_is_migrated_step_by_step(path: Path):
    first = ["CREATE TABLE t (x INTEGER) STRICT", "INSERT INTO t VALUES (1)"]
    await Database(path, [first], sound).close()
    database = Database(path, [first, ["ALTER TABLE t ADD COLUMN y INTEGER", "UPDATE t SET y = x + 1"]], sound)
    assert await database.run(lambda file: file.execute("SELECT x, y FROM t").fetchall()) == [(1, 2)]
    await database.close()


async def test_a_broken_migration_leaves_the_schema_before_it(path: Path):
    first = ["CREATE TABLE t (x INTEGER) STRICT"]
    with pytest.raises(StorageError):
        Database(path, [first, ["CREATE TABLE u (x INTEGER) STRICT", "nonsense"]], sound)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
        assert file.execute("SELECT name FROM sqlite_schema").fetchall() == [("t",)]


async def test_a_directory_that_cannot_be_used_is_told_in_words(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used") as refused:
        await SqliteOutbox.open(tmp_path / "file" / "outbox.db", sound)
    assert not refused.value.full


async def _fill(outbox: SqliteOutbox) -> list[str]:
    """Put until the disk is full; returns what was acknowledged."""
    kept = []
    for number in range(2000):
        try:
            await outbox.put(row(f"t{number}", output="x" * 5000))
        except StorageError as error:
            if not error.full:
                raise
            return kept
        kept.append(f"t{number}")
    raise AssertionError("the disk did not fill")


async def test_a_full_disk_loses_nothing_and_the_next_put_works_when_there_is_room(small_disk: Path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    outbox = await SqliteOutbox.open(small_disk / "outbox.db", sound)
    kept = await _fill(outbox)
    with pytest.raises(StorageError) as refused:
        await outbox.put(row("more", output="x" * 5000))
    assert refused.value.full
    assert [item.key.task_id for item in await outbox.pending(9999)] == kept
    ballast.unlink()
    await outbox.put(row("more", output="x" * 5000))
    await outbox.close()
    again = await SqliteOutbox.open(small_disk / "outbox.db", sound)
    assert [item.key.task_id for item in await again.pending(9999)] == [*kept, "more"]
    await again.close()


async def test_a_full_database_loses_nothing_and_the_next_put_works_when_there_is_room(outbox: SqliteOutbox):
    def limit(pages: int):
        return lambda file: file.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await outbox._database.run(limit(60))
    kept = await _fill(outbox)
    assert kept
    assert [item.key.task_id for item in await outbox.pending(9999)] == kept
    await outbox._database.run(limit(1 << 30))
    await outbox.put(row("more"))
    assert len(await outbox.pending(9999)) == len(kept) + 1


async def test_a_small_row_beside_a_large_one_still_fits_when_the_large_one_does_not(outbox: SqliteOutbox):
    await outbox._database.run(lambda file: file.execute("PRAGMA max_page_count = 40").fetchone())
    large, small = await asyncio.gather(
        outbox.put(row("large", output="x" * 1_000_000)), outbox.put(row("small")), return_exceptions=True
    )
    assert isinstance(large, StorageError)
    assert large.full
    assert small is None
    assert [item.key.task_id for item in await outbox.pending(9)] == ["small"]
