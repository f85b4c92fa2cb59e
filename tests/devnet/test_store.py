"""The store on a real disk, when something in it cannot be done."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.errors import StorageError
from agent.devnet.core.effects import SaveNode, SaveToken
from agent.devnet.core.records import UsedToken
from agent.devnet.store import Store, ledger
from tests.patience import PATIENCE_S

TOKEN = SaveToken(token=UsedToken(sha256="ab" * 32))


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[Store, list[StorageError]]]:
    broken: list[StorageError] = []
    store = Store(path, broken.append)
    try:
        await store.open()
        async with asyncio.timeout(PATIENCE_S):
            yield store, broken
    finally:
        await store.close()


def tokens(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM tokens").fetchone()[0]
    return count


async def test_a_document_that_does_not_decode_is_told_to_its_reader_and_the_store_goes_on(tmp_path: Path) -> None:
    def unreadable(_: sqlite3.Connection) -> None:
        raise ValueError("not a document of this version")

    async with opened(tmp_path / "s.sqlite") as (store, broken):
        with pytest.raises(ValueError, match="this version"):
            await store.read(unreadable)
        await store.commit((TOKEN,))
        assert await store.read(tokens) == 1
        assert broken == []


async def test_a_read_that_fails_harms_no_write_of_its_batch(tmp_path: Path) -> None:
    def no_such_table(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM nothing")

    async with opened(tmp_path / "s.sqlite") as (store, broken):
        commit, read = store.commit((TOKEN,)), asyncio.ensure_future(store.read(no_such_table))
        with pytest.raises(StorageError, match="nothing"):
            await read
        await commit
        assert await store.read(tokens) == 1
        assert broken == []


async def test_a_write_that_fails_for_any_reason_is_told_at_once_and_to_all_who_come_later(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.sqlite") as (store, broken):
        with pytest.raises(StorageError):
            await store.commit(
                (
                    SaveNode(record=None),  # type: ignore[arg-type]
                )
            )
        assert len(broken) == 1
        with pytest.raises(StorageError):
            await store.commit((TOKEN,))
        with pytest.raises(StorageError):
            await store.read(ledger)
        assert len(broken) == 1


async def test_a_state_of_another_version_is_told_with_a_remedy_at_start(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.sqlite") as (store, _):
        await store.commit((TOKEN,))
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        connection.execute("INSERT INTO nodes VALUES ('n-1', '{\"node_id\": 7}')")
    with pytest.raises(StorageError, match="cannot read") as refused:
        async with opened(tmp_path / "s.sqlite"):
            pass
    assert refused.value.remedy
