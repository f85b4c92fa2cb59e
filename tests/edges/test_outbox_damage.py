"""An outbox whose file is damaged for real: what is told, what is kept, what is rescued."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from agent.core import wire
from agent.core.errors import StorageError
from agent.core.model import Outcome, Reason
from agent.edges.outbox import SqliteOutbox, read_bundle, read_ledger
from agent.ports import OutboxRow
from tests.builders import signed
from tests.edges.test_outbox import path, receipt, row, sound

__all__ = ["path"]


def _filled(path: Path) -> bytes:
    async def fill() -> None:
        outbox = await SqliteOutbox.open(path, sound)
        for number in range(50):
            await outbox.put(row(f"t{number}", output="x" * 3000))
        await outbox.close()

    asyncio.run(fill())
    return path.read_bytes()


def _holed(raw: bytes) -> bytes:
    return raw[:4096] + b"\xa5" * 20_000 + raw[24_096:]


@pytest.mark.parametrize(
    "spoil",
    [lambda raw: b"not a database at all, but long enough" * 200, lambda raw: raw[:10_000], _holed],
    ids=["garbage", "truncated", "overwritten"],
)
def test_a_damaged_file_is_kept_aside_and_work_goes_on(path: Path, spoil):
    damaged = spoil(_filled(path))
    path.write_bytes(damaged)

    async def reopen() -> None:
        told: list[str] = []
        outbox = await SqliteOutbox.open(path, told.append)
        assert "outbox.db.corrupt-1" in told[0]
        await outbox.put(row("new"))
        assert [item.key.task_id for item in await outbox.pending(9)] == ["new"]
        await outbox.close()

    asyncio.run(reopen())
    assert Path(f"{path}.corrupt-1").read_bytes() == damaged


@pytest.mark.parametrize("byte", [b"\xff", b"!"], ids=["no text", "no JSON"])
async def test_one_result_that_cannot_be_read_is_set_aside_alone(path: Path, byte: bytes):
    """SQLite's check passes: its pages are sound, what one of them holds is not."""
    outbox = await SqliteOutbox.open(path, sound)
    items = [row(name) for name in ("first", "spoilt", "last")]
    for item in items:
        await outbox.put(item)
    await outbox.close()
    raw = bytearray(path.read_bytes())
    at = [match.start() for match in re.finditer(rb'{"payload"', raw)][
        2
    ]  # an offer and a result each; pages fill upwards
    raw[at : at + 1] = byte
    path.write_bytes(raw)
    told: list[str] = []
    outbox = await SqliteOutbox.open(path, told.append)
    assert [item.key.task_id for item in await outbox.pending(9)] == ["first", "last"]
    assert [item.key.task_id for item in await outbox.pending(9)] == ["first", "last"]
    assert len(told) == 1
    assert "`quarantine`" in told[0]
    assert list(await outbox.unsent()) == ["first:1", "last:1"]
    assert await outbox.settled_many([(items[1].key, "spoilt:1")]) == [False]
    await outbox.put(items[1])
    assert len(await outbox.pending(9)) == 3
    await outbox.close()
    with closing(sqlite3.connect(path)) as file:
        (kept,) = file.execute("SELECT task_id, idem_key, offer, result FROM quarantine").fetchall()
    assert kept[:2] == (b"spoilt", b"spoilt:1")
    assert byte + b'"payload"' in kept[2] + kept[3]


def test_a_second_damage_does_not_overwrite_the_first_that_was_kept(path: Path):
    async def reopen() -> str:
        told: list[str] = []
        await (await SqliteOutbox.open(path, told.append)).close()
        return "".join(told)

    path.parent.mkdir()
    for number in (1, 2):
        path.write_bytes(b"garbage %d " % number * 1000)
        assert f"corrupt-{number}" in asyncio.run(reopen())
    assert Path(f"{path}.corrupt-1").read_bytes().startswith(b"garbage 1")


async def _spoiled_in_use(path: Path, recovered: Callable[[str], None]) -> SqliteOutbox:
    """An open outbox that held 50 rows until its file was overwritten behind its back."""
    outbox = await SqliteOutbox.open(path, sound)
    for number in range(50):
        await outbox.put(row(f"t{number}", output="x" * 3000))
    await outbox.close()
    size = path.stat().st_size
    outbox = await SqliteOutbox.open(path, recovered)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    await outbox._database.run(lambda file: file.execute("PRAGMA shrink_memory"))
    return outbox


async def test_damage_that_shows_in_use_is_told_and_survived_without_a_restart(path: Path):
    told: list[str] = []
    outbox = await _spoiled_in_use(path, told.append)
    assert told == []
    assert await outbox.pending(99) == []
    assert "outbox.db.corrupt-1" in told[0]
    assert await outbox.unsent() == {}
    await outbox.put(row("after"))
    await outbox.close()
    assert len(told) == 1
    assert b"\xa5" * 4096 in Path(f"{path}.corrupt-1").read_bytes()
    again = await SqliteOutbox.open(path, sound)
    assert list(await again.unsent()) == ["after:1"]
    await again.close()


async def test_the_receipt_of_a_row_that_was_lost_is_kept_all_the_same(path: Path):
    outbox = await _spoiled_in_use(path, print)
    await outbox.settle(row(), *receipt(row()))
    assert [line.idem_key for line in read_ledger(path, 9)] == ["t1:1"]
    assert read_bundle(path, "t1") is not None
    await outbox.close()


# --------------------------------------------------------------------------- what is rescued

WAITING = [row(f"w{number}", output="w" * (number * 331 % 9000)) for number in range(40)]
SETTLED = [row(f"s{number}", output="s" * (number * 517 % 9000)) for number in range(30)]


def honest(item: OutboxRow) -> OutboxRow:
    """With a result that says whose it is."""
    body = wire.ResultBody(
        node_id="n",
        task_id=item.key.task_id,
        attempt=item.key.attempt,
        fence=item.key.fence,
        idem_key=item.idem_key,
        outcome=Outcome.SUCCEEDED,
        reason=Reason.COMPLETED,
        output_sha256=hashlib.sha256((item.output or "").encode()).hexdigest(),
    )
    return msgspec.structs.replace(item, result=signed(wire.encode(body).decode()))


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An outbox with 40 results that wait among 30 that are settled."""
    path = tmp_path_factory.mktemp("stocked") / "outbox.db"

    async def fill() -> None:
        outbox = await SqliteOutbox.open(path, sound)
        for number, item in enumerate(WAITING):
            await outbox.put(honest(item))
            if number < len(SETTLED):
                settled = honest(SETTLED[number])
                await outbox.put(settled)
                letter, body = receipt(settled, number)
                letter = msgspec.structs.replace(letter, payload=wire.encode(body).decode())
                await outbox.settle(settled, letter, body)
        await outbox.close()

    asyncio.run(fill())
    return path.read_bytes()


class Found(NamedTuple):
    """What a node has after it opened an outbox."""

    waiting: dict[str, OutboxRow]
    ledger: dict[str, int]
    bundles: int
    told: str


async def reopened(path: Path) -> Found:
    told: list[str] = []
    outbox = await SqliteOutbox.open(path, told.append)
    waiting = {item.idem_key: item for item in await outbox.pending(999)}
    assert list(await outbox.unsent()) == list(waiting)
    await outbox.put(row("after"))
    await outbox.close()
    ledger = read_ledger(path, 999)
    bundles = 0
    for line in ledger:
        with contextlib.suppress(StorageError):
            bundles += read_bundle(path, line.task_id) is not None
    return Found(waiting, {line.idem_key: line.amount_micros for line in ledger}, bundles, "".join(told))


def assert_true(found: Found) -> None:
    """Whatever was rescued is what was put."""
    assert found.waiting.items() <= {item.idem_key: honest(item) for item in [*WAITING, *SETTLED]}.items()
    assert found.ledger.items() <= {item.idem_key: number for number, item in enumerate(SETTLED)}.items()
    assert not found.waiting.keys() & found.ledger.keys()


@pytest.mark.parametrize("spoil", [bytes(4096), b"\xa5" * 4096], ids=["zeros", "noise"])
async def test_a_page_that_is_lost_costs_little_more_than_what_was_on_it(path: Path, stocked: bytes, spoil: bytes):
    path.parent.mkdir()
    pages = len(stocked) // 4096
    lost = []
    for page in range(1, pages, 3):
        path.write_bytes(stocked[: page * 4096] + spoil + stocked[(page + 1) * 4096 :])
        found = await reopened(path)
        if found.told:  # SQLite has no checksums: zeros inside a text look sound to it
            assert_true(found)
            assert ("rescued" in found.told) == ("corrupt-1" in found.told)
        lost.append(len(WAITING) - len(found.waiting.keys() & {item.idem_key for item in WAITING}))
        for file in path.parent.iterdir():
            file.unlink()
    assert max(lost) <= len(WAITING)
    assert sorted(lost)[len(lost) * 3 // 4] <= 1
    assert sum(lost) < 3 * len(WAITING)


async def test_what_lies_before_a_cut_is_rescued(path: Path, stocked: bytes):
    path.parent.mkdir()
    path.write_bytes(stocked[: len(stocked) * 3 // 4 // 4096 * 4096])
    found = await reopened(path)
    assert_true(found)
    assert len(found.waiting) > len(WAITING) // 2
    assert len(found.ledger) > len(SETTLED) // 2
    assert f"{len(found.waiting)} waiting results rescued" in found.told


async def test_lines_that_are_lost_are_made_again_from_what_was_signed(path: Path, stocked: bytes):
    path.parent.mkdir()
    path.write_bytes(stocked)
    with closing(sqlite3.connect(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'attempts'").fetchone()
    path.write_bytes(stocked[: (root - 1) * 4096] + bytes(4096) + stocked[root * 4096 :])
    found = await reopened(path)
    assert_true(found)
    assert (len(found.waiting), len(found.ledger), found.bundles) == (len(WAITING), len(SETTLED), len(SETTLED))


async def test_an_index_that_is_damaged_costs_nothing(path: Path, stocked: bytes):
    path.parent.mkdir()
    path.write_bytes(stocked)
    with closing(sqlite3.connect(path)) as file:
        roots = file.execute("SELECT rootpage FROM sqlite_schema WHERE type = 'index'").fetchall()
    assert len(roots) == 3
    for (root,) in roots:
        path.write_bytes(stocked[: (root - 1) * 4096] + bytes(4096) + stocked[root * 4096 :])
        found = await reopened(path)
        assert_true(found)
        assert (len(found.waiting), len(found.ledger), found.bundles) == (len(WAITING), len(SETTLED), len(SETTLED))
        assert "rescued" in found.told


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an outbox with 40 results that wait, as a power cut leaves it: all of it is in the log."""
    path = tmp_path_factory.mktemp("logged") / "state" / "outbox.db"

    async def fill() -> None:
        outbox = await SqliteOutbox.open(path, sound)
        for item in WAITING:
            await outbox.put(honest(item))
        shutil.copytree(path.parent, path.parent.with_name("cut"))
        await outbox.close()

    asyncio.run(fill())
    return path.parent.with_name("cut")


def with_log(path: Path, logged: Path, change: Callable[[bytes], bytes]) -> bytes:
    shutil.copytree(logged, path.parent)
    log = Path(f"{path}-wal")
    log.write_bytes(change(log.read_bytes()))
    return log.read_bytes()


async def test_a_sound_log_is_no_damage(path: Path, logged: Path):
    with_log(path, logged, lambda log: log)
    found = await reopened(path)
    assert (len(found.waiting), found.told) == (len(WAITING), "")


@pytest.mark.parametrize("place", [0, 3, 17, 700, 0.1, 0.3, 0.5, 0.7, 0.9])
async def test_a_damaged_place_in_the_log_costs_what_is_there_and_not_what_comes_behind(
    path: Path, logged: Path, place: float
):
    def flip(log: bytes) -> bytes:
        at = place if isinstance(place, int) else int(len(log) * place)
        return log[:at] + bytes([log[at] ^ 0x55] * 3) + log[at + 3 :]

    log = with_log(path, logged, flip)
    found = await reopened(path)
    assert_true(found)
    assert len(found.waiting) >= len(WAITING) - 4  # as many may share a page
    assert "behind a damaged place" in found.told
    assert Path(f"{path}.corrupt-1-wal").read_bytes() == log
    assert not list(path.parent.glob("*.mended*"))


async def test_a_log_that_is_cut_or_torn_at_its_end_keeps_what_lies_before(path: Path, logged: Path):
    with_log(path, logged, lambda log: log[: len(log) // 2])
    found = await reopened(path)
    assert_true(found)
    assert (10 < len(found.waiting) < len(WAITING), found.told) == (True, "")
    shutil.rmtree(path.parent)
    with_log(path, logged, lambda log: log[:-5000] + bytes(5000))
    found = await reopened(path)
    assert_true(found)
    assert (len(found.waiting) >= len(WAITING) - 1, found.told) == (True, "")


async def test_a_rescue_that_a_crash_cut_short_is_done_again_and_one_that_was_done_counts(path: Path, stocked: bytes):
    path.parent.mkdir()
    rescued = Path(f"{path}.rescued")
    path.write_bytes(stocked)
    rescued.write_bytes(stocked[:5000])
    assert len((await reopened(path)).waiting) == len(WAITING)
    assert not rescued.exists()
    path.unlink()
    rescued.write_bytes(stocked)
    assert len((await reopened(path)).waiting) == len(WAITING)
    assert not rescued.exists()


async def test_a_rescue_waits_for_room(small_disk: Path, stocked: bytes):
    path = small_disk / "outbox.db"
    damaged = stocked[:-4096]
    path.write_bytes(damaged)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while shutil.disk_usage(small_disk).free > 100_000:
            file.write(bytes(4096))
    with pytest.raises(StorageError) as refused:
        await SqliteOutbox.open(path, sound)
    assert refused.value.full
    assert path.read_bytes() == damaged
    ballast.unlink()
    assert len((await reopened(path)).waiting) >= len(WAITING) - 1
