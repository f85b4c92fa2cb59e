"""Finished attempts on their way to the coordinator, and the ledger of those that it settled."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from agent.core import wire
from agent.core.errors import ConflictError
from agent.core.model import LeaseKey, Signed, Value
from agent.edges.database import DamagedError, Database, read_only
from agent.ports import OutboxRow

OUTBOX_NAME = "outbox.db"
DEFAULT_BUDGET_BYTES = 2 << 30
"""Beyond this the oldest bundles are dropped; their ledger lines stay. A bundle is about 6 KiB and its output."""
ANSWER_CHARS = 4 << 20
"""`pending` loads no further row beyond this: a backlog of large outputs is never in memory at once."""
UNSENT_MAX = 100_000
"""About 20 MB of keys. A node stops taking work far below this."""
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
    """The port `Outbox`."""

    def __init__(self, database: Database, budget_bytes: int) -> None:
        self._database = database
        self._budget_bytes = budget_bytes

    @classmethod
    async def open(
        cls, path: Path, recovered: Callable[[str], None], *, budget_bytes: int = DEFAULT_BUDGET_BYTES
    ) -> SqliteOutbox:
        """Open or create the database at `path`. Raises StorageError.

        A damaged file is put aside, now or whenever damage shows; `recovered` is told which, on this event loop.
        """
        loop = asyncio.get_running_loop()

        def tell(what: str) -> None:
            loop.call_soon_threadsafe(recovered, what)

        return cls(await asyncio.to_thread(Database, path, _SCHEMA, tell), budget_bytes)

    async def put(self, row: OutboxRow) -> None:
        await self._database.run(lambda file: _put(file, row))

    async def pending(self, limit: int, skip: Collection[str] = ()) -> Sequence[OutboxRow]:
        return await self._database.read(lambda file: _pending(file, limit, skip))

    async def unsent(self) -> Mapping[str, LeaseKey]:
        return await self._database.read(_unsent)

    async def settle(self, row: OutboxRow, receipt: Signed, body: wire.ReceiptBody) -> None:
        await self._database.run(lambda file: _settle(file, row, receipt, body, self._budget_bytes))

    async def settled(self, key: LeaseKey, idem_key: str) -> bool:
        return await self._database.read(lambda file: _known(file, idem_key) or _ended(file, key))

    async def close(self) -> None:
        await self._database.close()


def read_ledger(path: Path, limit: int) -> Sequence[LedgerLine]:
    """The ledger of an agent that may be running, newest first; empty where none ran. Raises StorageError."""
    return read_only(path, lambda file: _ledger(file, limit)) or []


def read_bundle(path: Path, task_id: str) -> wire.ReceiptBundle | None:
    """The accepted attempt's bundle, else the newest attempt's; None when there is none (any more).

    The agent may be running. Raises StorageError.
    """
    return read_only(path, lambda file: _bundle(file, task_id))


# --------------------------------------------------------------------------- work inside a transaction


def _put(file: sqlite3.Connection, row: OutboxRow) -> None:
    if _known(file, row.idem_key):
        return
    key = row.key
    if _ended(file, key):
        raise ConflictError(
            f"attempt {key.attempt} of task {key.task_id} ended before, under another idempotency key",
            remedy="The coordinator gave one attempt out twice: tell its operator",
        )
    values = (key.task_id, key.attempt, key.fence, row.idem_key, _json(row.offer), _json(row.result), row.output)
    file.execute(f"INSERT INTO outbox ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608


def _pending(file: sqlite3.Connection, limit: int, skip: Collection[str]) -> list[OutboxRow]:
    """Walks the keys, which lie before a row's long texts, and reads only the rows that are wanted."""
    rows: list[OutboxRow] = []
    room = ANSWER_CHARS
    with closing(file.execute("SELECT seq, idem_key FROM outbox ORDER BY seq")) as keys:
        for seq, idem_key in keys:
            if len(rows) == limit or room <= 0:
                break
            if idem_key not in skip:
                columns = file.execute(f"SELECT {_COLUMNS} FROM outbox WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
                rows.append(_row(columns))
                room -= sum(len(text) for text in columns if isinstance(text, str))
    return rows


def _unsent(file: sqlite3.Connection) -> dict[str, LeaseKey]:
    query = "SELECT idem_key, task_id, attempt, fence FROM outbox ORDER BY seq LIMIT ?"
    return {
        idem_key: LeaseKey(task_id=task_id, attempt=attempt, fence=fence)
        for idem_key, task_id, attempt, fence in file.execute(query, (UNSENT_MAX,))
    }


def _row(columns: tuple[Any, ...]) -> OutboxRow:
    task_id, attempt, fence, idem_key, offer, result, output = columns
    return OutboxRow(
        key=LeaseKey(task_id=task_id, attempt=attempt, fence=fence),
        idem_key=idem_key,
        offer=_signed(offer),
        result=_signed(result),
        output=output,
    )


def _signed(text: str) -> Signed:
    try:
        return msgspec.json.decode(text, type=Signed)
    except msgspec.DecodeError as error:
        raise DamagedError("a message in it cannot be read") from error


def _settle(
    file: sqlite3.Connection, row: OutboxRow, receipt: Signed, body: wire.ReceiptBody, budget_bytes: int
) -> None:
    key, money = row.key, (body.status.value, body.amount_micros, body.currency, body.received_at)
    line = file.execute(
        "INSERT INTO ledger (task_id, attempt, idem_key, status, amount_micros, currency, received_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (key.task_id, key.attempt, row.idem_key, *money),
    )
    file.execute("DELETE FROM outbox WHERE idem_key = ?", (row.idem_key,))
    if not line.rowcount:
        return
    bundle = wire.ReceiptBundle(
        coordinator_key=receipt.key, offer=row.offer, result=row.result, receipt=receipt, output=row.output
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


def _ended(file: sqlite3.Connection, key: LeaseKey) -> bool:
    """Whether this attempt has a result already, under whatever idempotency key."""
    query = (
        "SELECT 1 FROM outbox WHERE task_id = ?1 AND attempt = ?2 "
        "UNION ALL SELECT 1 FROM ledger WHERE task_id = ?1 AND attempt = ?2"
    )
    return file.execute(query, (key.task_id, key.attempt)).fetchone() is not None


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
