"""Finished attempts on their way to the coordinator, and the ledger of those that it settled."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent.core import wire
from agent.core.errors import StorageError
from agent.core.model import LeaseKey, Signed, Value
from agent.edges.database import Database, read_only
from agent.ports import OutboxRow

OUTBOX_NAME = "outbox.db"
DEFAULT_BUDGET_BYTES = 2 << 30
"""Beyond this the oldest bundles are dropped; their ledger lines stay. A bundle is about 6 KiB and its output."""
_DROP_AT_ONCE = 8
"""For each bundle that comes in: enough to get below the budget again soon, little enough to keep most."""

_SCHEMA = (
    (
        """CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY,
            task_id TEXT NOT NULL, attempt INTEGER NOT NULL, fence INTEGER NOT NULL,
            idem_key TEXT NOT NULL UNIQUE,
            offer TEXT NOT NULL, result TEXT NOT NULL, output TEXT,
            UNIQUE (task_id, attempt)
        ) STRICT""",
        """CREATE TABLE ledger (
            seq INTEGER PRIMARY KEY,
            task_id TEXT NOT NULL, attempt INTEGER NOT NULL,
            idem_key TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL, amount_micros INTEGER NOT NULL, currency TEXT NOT NULL,
            received_at INTEGER NOT NULL,
            UNIQUE (task_id, attempt)
        ) STRICT""",
        # Apart from its line, so that dropping a bundle gives whole pages back.
        "CREATE TABLE bundles (seq INTEGER PRIMARY KEY REFERENCES ledger, bundle TEXT NOT NULL) STRICT",
    ),
)
_COLUMNS = "task_id, attempt, fence, idem_key, offer, result, output"


class LedgerLine(Value):
    """What became of one attempt. Money is an integer: millionths of one unit of `currency`."""

    task_id: str
    attempt: int
    idem_key: str
    status: wire.ReceiptStatus
    amount_micros: int
    currency: str
    received_at: int
    """Unix seconds on the coordinator's clock."""


class SqliteOutbox:
    """The port `Outbox`, with readers of the ledger."""

    def __init__(self, database: Database, budget_bytes: int) -> None:
        self._database = database
        self._budget_bytes = budget_bytes

    @classmethod
    async def open(cls, path: Path, *, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> SqliteOutbox:
        """Open or create the database at `path`. Raises StorageError; a damaged file is put aside, see `recovered`."""
        return cls(await asyncio.to_thread(Database, path, _SCHEMA), budget_bytes)

    @property
    def recovered(self) -> str:
        """In words, which damaged file was put aside; empty when none was."""
        return self._database.recovered

    async def put(self, row: OutboxRow) -> None:
        """See the port. Another result for the same attempt raises StorageError: an attempt ends once."""
        await self._database.run(lambda file: _put(file, row))

    async def pending(self, limit: int) -> Sequence[OutboxRow]:
        return await self._database.run(lambda file: _pending(file, limit))

    async def settle(self, idem_key: str, receipt: Signed, body: wire.ReceiptBody) -> None:
        """See the port. Settling what is not waiting changes nothing."""
        await self._database.run(lambda file: _settle(file, idem_key, receipt, body, self._budget_bytes))

    async def settled(self, idem_key: str) -> bool:
        return await self._database.run(lambda file: _known(file, idem_key))

    async def ledger(self, limit: int) -> Sequence[LedgerLine]:
        """Newest first."""
        return await self._database.run(lambda file: _ledger(file, limit))

    async def bundle(self, task_id: str) -> wire.ReceiptBundle | None:
        """The accepted attempt's bundle, else the newest attempt's; None when there is none (any more)."""
        return await self._database.run(lambda file: _bundle(file, task_id))

    async def close(self) -> None:
        await self._database.close()


def read_ledger(path: Path, limit: int) -> Sequence[LedgerLine]:
    """The ledger of an agent that may be running, newest first; empty where none ran. Raises StorageError."""
    return read_only(path, lambda file: _ledger(file, limit)) or []


def read_bundle(path: Path, task_id: str) -> wire.ReceiptBundle | None:
    """One bundle from the ledger of an agent that may be running. Raises StorageError."""
    return read_only(path, lambda file: _bundle(file, task_id))


# --------------------------------------------------------------------------- work inside a transaction


def _put(file: sqlite3.Connection, row: OutboxRow) -> None:
    if _known(file, row.idem_key):
        return
    key = row.key
    values = (key.task_id, key.attempt, key.fence, row.idem_key, _json(row.offer), _json(row.result), row.output)
    clash = "SELECT 1 FROM ledger WHERE task_id = ? AND attempt = ?"
    try:
        if file.execute(clash, (key.task_id, key.attempt)).fetchone():
            raise _ended_before(key)
        file.execute(f"INSERT INTO outbox ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608
    except sqlite3.IntegrityError as error:
        raise _ended_before(key) from error


def _ended_before(key: LeaseKey) -> StorageError:
    return StorageError(
        f"attempt {key.attempt} of task {key.task_id} ended before, under another idempotency key",
        remedy="The coordinator gave one attempt out twice: tell its operator",
    )


def _pending(file: sqlite3.Connection, limit: int) -> list[OutboxRow]:
    rows = file.execute(f"SELECT {_COLUMNS} FROM outbox ORDER BY seq LIMIT ?", (limit,))  # noqa: S608
    return [_row(row) for row in rows]


def _row(columns: tuple[Any, ...]) -> OutboxRow:
    task_id, attempt, fence, idem_key, offer, result, output = columns
    return OutboxRow(
        key=LeaseKey(task_id=task_id, attempt=attempt, fence=fence),
        idem_key=idem_key,
        offer=msgspec.json.decode(offer, type=Signed),
        result=msgspec.json.decode(result, type=Signed),
        output=output,
    )


def _settle(
    file: sqlite3.Connection, idem_key: str, receipt: Signed, body: wire.ReceiptBody, budget_bytes: int
) -> None:
    delete = f"DELETE FROM outbox WHERE idem_key = ? RETURNING {_COLUMNS}"  # noqa: S608
    row = file.execute(delete, (idem_key,)).fetchone()
    if row is None:
        return
    waiting = _row(row)
    bundle = wire.ReceiptBundle(
        coordinator_key=receipt.key, offer=waiting.offer, result=waiting.result, receipt=receipt, output=waiting.output
    )
    key, money = waiting.key, (body.status.value, body.amount_micros, body.currency, body.received_at)
    line = file.execute(
        "INSERT INTO ledger (task_id, attempt, idem_key, status, amount_micros, currency, received_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key.task_id, key.attempt, idem_key, *money),
    )
    _drop_old_bundles(file, budget_bytes)
    file.execute("INSERT INTO bundles VALUES (?, ?)", (line.lastrowid, _json(bundle)))


def _drop_old_bundles(file: sqlite3.Connection, budget_bytes: int) -> None:
    """Free pages are reused, so that the file stops growing at the budget."""
    pages, free, size = (
        file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * size > budget_bytes:
        oldest = "SELECT seq FROM bundles ORDER BY seq LIMIT ?"
        file.execute(f"DELETE FROM bundles WHERE seq IN ({oldest})", (_DROP_AT_ONCE,))  # noqa: S608


def _known(file: sqlite3.Connection, idem_key: str) -> bool:
    query = "SELECT 1 FROM outbox WHERE idem_key = ?1 UNION ALL SELECT 1 FROM ledger WHERE idem_key = ?1"
    return file.execute(query, (idem_key,)).fetchone() is not None


def _ledger(file: sqlite3.Connection, limit: int) -> list[LedgerLine]:
    names = LedgerLine.__struct_fields__
    rows = file.execute(f"SELECT {', '.join(names)} FROM ledger ORDER BY seq DESC LIMIT ?", (limit,))  # noqa: S608
    return [msgspec.convert(dict(zip(names, row, strict=True)), LedgerLine) for row in rows]


def _bundle(file: sqlite3.Connection, task_id: str) -> wire.ReceiptBundle | None:
    row = file.execute(
        "SELECT bundle FROM ledger JOIN bundles USING (seq) WHERE task_id = ? "
        "ORDER BY status = 'accepted' DESC, seq DESC LIMIT 1",
        (task_id,),
    ).fetchone()
    return msgspec.json.decode(row[0], type=wire.ReceiptBundle) if row else None


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
