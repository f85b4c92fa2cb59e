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
from agent.core.model import LeaseKey, Outcome, Signed, Value
from agent.edges.database import Database
from agent.edges.outbox_salvage import salvage
from agent.edges.sqlite_faults import DamagedError
from agent.edges.sqlite_file import read_only
from agent.ports import Delivered, OutboxRow

OUTBOX_NAME = "outbox.db"
DEFAULT_BUDGET_BYTES = 2 << 30
"""Beyond this the oldest papers are dropped; their ledger lines stay. An attempt's are about 6 KiB and its output."""
ANSWER_CHARS = 4 << 20
"""`pending` loads no further row beyond this: a backlog of large outputs is never in memory at once."""
UNSENT_MAX = 100_000
"""About 20 MB of keys. A node stops taking work far below this."""
_LOOK_EVERY = 16
"""Settled attempts between two looks at the file's size."""
_LARGE_CHARS = 1 << 20
"""An output that is worth a look by itself."""
_DROP_AT_ONCE = 64
"""At each look: enough to get below the budget again soon, little enough to keep most."""

_SCHEMA = (
    (
        # An attempt has one line from its end on: first it waits (no status), then a receipt settles it.
        """CREATE TABLE attempts (
            seq INTEGER PRIMARY KEY,
            task_id TEXT NOT NULL, attempt INTEGER NOT NULL, fence INTEGER NOT NULL,
            idem_key TEXT NOT NULL UNIQUE,
            status TEXT, amount_micros INTEGER, currency TEXT, received_at INTEGER,
            UNIQUE (task_id, attempt)
        ) STRICT""",
        "CREATE INDEX waiting ON attempts (seq) WHERE status IS NULL",
        # Apart from their line, so that dropping them gives whole pages back, and written once: settling adds the
        # receipt beside them.
        """CREATE TABLE papers (
            seq INTEGER PRIMARY KEY REFERENCES attempts, offer TEXT NOT NULL, result TEXT NOT NULL, output TEXT
        ) STRICT""",
        "CREATE TABLE receipts (seq INTEGER PRIMARY KEY REFERENCES papers, receipt TEXT NOT NULL) STRICT",
        # Results whose papers cannot be read, as they were found: for people.
        """CREATE TABLE quarantine (
            number INTEGER PRIMARY KEY,
            task_id BLOB, attempt INTEGER, fence INTEGER, idem_key BLOB, offer BLOB, result BLOB, output BLOB
        ) STRICT""",
    ),
)


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
    outcome: Outcome | None = None
    """How it ended; None where its papers were dropped to save space."""


class SqliteOutbox:
    """The ports `Outbox` and `Ledger`."""

    def __init__(self, database: Database, recovered: Callable[[str], None], budget_bytes: int) -> None:
        self._database = database
        self._recovered = recovered
        self._budget_bytes = budget_bytes

    @classmethod
    async def open(
        cls, path: Path, recovered: Callable[[str], None], *, budget_bytes: int = DEFAULT_BUDGET_BYTES
    ) -> SqliteOutbox:
        """Open or create the database at `path`. Raises StorageError.

        A damaged file is put aside, now or whenever damage shows, and what can be read of it goes on in a fresh one; a
        single result that cannot be read is set aside alone. `recovered` is told so, on this event loop.
        """
        loop = asyncio.get_running_loop()

        def tell(what: str) -> None:
            loop.call_soon_threadsafe(recovered, what)

        database = await asyncio.to_thread(Database, path, _SCHEMA, tell, salvage=salvage)
        return cls(database, recovered, budget_bytes)

    async def put(self, row: OutboxRow) -> None:
        await self._database.run(lambda file: _put(file, row))

    async def pending(self, limit: int, skip: Collection[str] = ()) -> Sequence[OutboxRow]:
        rows, unreadable = await self._database.read(lambda file: _pending(file, limit, skip))
        if unreadable:
            await self._set_aside(unreadable)
        return rows

    async def _set_aside(self, unreadable: Collection[int]) -> None:
        await self._database.run(lambda file: _quarantine(file, unreadable))
        self._recovered(
            f"{len(unreadable)} of the results in {OUTBOX_NAME} cannot be read; they are set aside in its table "
            "`quarantine`, and their tasks are given up"
        )

    async def unsent(self) -> Mapping[str, LeaseKey]:
        return await self._database.read(_unsent)

    async def settle(self, row: OutboxRow, receipt: Signed, body: wire.ReceiptBody) -> None:
        await self._database.run_unflushed(lambda file: _settle(file, row, receipt, body, self._budget_bytes))

    async def settled(self, key: LeaseKey, idem_key: str) -> bool:
        (known,) = await self.settled_many([(key, idem_key)])
        return known

    async def settled_many(self, offers: Sequence[tuple[LeaseKey, str]]) -> Sequence[bool]:
        return await self._database.read(lambda file: _known(file, offers))

    async def delivered(self, key: LeaseKey) -> Delivered | None:
        """See the port `Ledger`."""
        return await self._database.read(lambda file: _delivered(file, key))

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
    key = row.key
    line = file.execute(
        "INSERT INTO attempts (task_id, attempt, fence, idem_key) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (key.task_id, key.attempt, key.fence, row.idem_key),
    )
    if line.rowcount:
        _keep_papers(file, line.lastrowid, row)
    elif file.execute("SELECT 1 FROM attempts WHERE idem_key = ?", (row.idem_key,)).fetchone() is None:
        raise ConflictError(
            f"attempt {key.attempt} of task {key.task_id} ended before, under another idempotency key",
            remedy="The coordinator gave one attempt out twice: tell its operator",
        )


def _keep_papers(file: sqlite3.Connection, seq: int | None, row: OutboxRow) -> None:
    file.execute("INSERT INTO papers VALUES (?, ?, ?, ?)", (seq, _json(row.offer), _json(row.result), row.output))


def _pending(file: sqlite3.Connection, limit: int, skip: Collection[str]) -> tuple[list[OutboxRow], list[int]]:
    """Walks the lines of what waits, and reads only the papers that are wanted; also which of them cannot be read."""
    rows: list[OutboxRow] = []
    unreadable: list[int] = []
    room = ANSWER_CHARS
    lines = "SELECT seq, idem_key, task_id, attempt, fence FROM attempts WHERE status IS NULL ORDER BY seq"
    with closing(file.execute(lines)) as waiting:
        for seq, idem_key, task_id, attempt, fence in waiting:
            if len(rows) == limit or room <= 0:
                break
            if idem_key in skip:
                continue
            row = _row(file, seq, LeaseKey(task_id=task_id, attempt=attempt, fence=fence), idem_key)
            if row is None:
                unreadable.append(seq)
                continue
            rows.append(row)
            room -= len(row.offer.payload) + len(row.result.payload) + len(row.output or "")
    return rows, unreadable


def _row(file: sqlite3.Connection, seq: int, key: LeaseKey, idem_key: str) -> OutboxRow | None:
    """None when its papers cannot be read. That a page cannot be is another matter: damage to the file."""
    try:
        papers = file.execute("SELECT offer, result, output FROM papers WHERE seq = ?", (seq,)).fetchone()
        if papers is None:
            return None
        offer, result, output = papers
        return OutboxRow(key=key, idem_key=idem_key, offer=_signed(offer), result=_signed(result), output=output)
    except DamagedError:
        return None


def _quarantine(file: sqlite3.Connection, unreadable: Collection[int]) -> None:
    which = [(seq,) for seq in unreadable]
    file.executemany(
        "INSERT INTO quarantine (task_id, attempt, fence, idem_key, offer, result, output) "
        "SELECT CAST(task_id AS BLOB), attempt, fence, CAST(idem_key AS BLOB), CAST(offer AS BLOB), "
        "CAST(result AS BLOB), CAST(output AS BLOB) FROM attempts LEFT JOIN papers USING (seq) WHERE seq = ?",
        which,
    )
    for table in ("papers", "attempts"):
        file.executemany(f"DELETE FROM {table} WHERE seq = ?", which)  # noqa: S608


def _unsent(file: sqlite3.Connection) -> dict[str, LeaseKey]:
    query = "SELECT idem_key, task_id, attempt, fence FROM attempts WHERE status IS NULL ORDER BY seq LIMIT ?"
    return {
        idem_key: LeaseKey(task_id=task_id, attempt=attempt, fence=fence)
        for idem_key, task_id, attempt, fence in file.execute(query, (UNSENT_MAX,))
    }


def _signed(text: str) -> Signed:
    try:
        return msgspec.json.decode(text, type=Signed)
    except msgspec.DecodeError as error:
        raise DamagedError("a message in it cannot be read") from error


def _settle(
    file: sqlite3.Connection, row: OutboxRow, receipt: Signed, body: wire.ReceiptBody, budget_bytes: int
) -> None:
    seq = _settle_line(file, row, body)
    if seq is None:  # it was before
        return
    if seq % _LOOK_EVERY == 0 or len(row.output or "") > _LARGE_CHARS:
        _drop_old_papers(file, budget_bytes)
    file.execute("INSERT INTO receipts VALUES (?, ?)", (seq, _json(receipt)))


def _settle_line(file: sqlite3.Connection, row: OutboxRow, body: wire.ReceiptBody) -> int | None:
    """The number of the line that this settled; None when it was settled before."""
    key, money = row.key, (body.status.value, body.amount_micros, body.currency, body.received_at)
    waited = file.execute(
        "UPDATE attempts SET (status, amount_micros, currency, received_at) = (?, ?, ?, ?) "
        "WHERE idem_key = ? AND status IS NULL RETURNING seq",
        (*money, row.idem_key),
    ).fetchall()
    if waited:
        seq: int = waited[0][0]
        return seq
    lost = file.execute(
        "INSERT INTO attempts (task_id, attempt, fence, idem_key, status, amount_micros, currency, received_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (key.task_id, key.attempt, key.fence, row.idem_key, *money),
    )
    if not lost.rowcount:
        return None
    _keep_papers(file, lost.lastrowid, row)
    return lost.lastrowid


def _drop_old_papers(file: sqlite3.Connection, budget_bytes: int) -> None:
    """Of what is settled. Free pages are reused, so that the file stops growing at the budget."""
    pages, free, size = (
        file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * size <= budget_bytes:
        return
    oldest = [line[0] for line in file.execute("SELECT seq FROM receipts ORDER BY seq LIMIT ?", (_DROP_AT_ONCE,))]
    for table in ("receipts", "papers"):
        file.executemany(f"DELETE FROM {table} WHERE seq = ?", [(seq,) for seq in oldest])  # noqa: S608


def _known(file: sqlite3.Connection, offers: Sequence[tuple[LeaseKey, str]]) -> list[bool]:
    """One statement for all: each step of SQLite lets go of the interpreter, and has to get it back."""
    asked = msgspec.json.encode([(idem_key, key.task_id, key.attempt) for key, idem_key in offers]).decode()
    found = file.execute(
        "WITH asked AS (SELECT key AS number, json_extract(value, '$[0]') AS idem_key, "
        "json_extract(value, '$[1]') AS task_id, json_extract(value, '$[2]') AS attempt FROM json_each(?)) "
        "SELECT number FROM asked JOIN attempts USING (idem_key) "
        "UNION SELECT number FROM asked JOIN attempts USING (task_id, attempt)",
        (asked,),
    )
    known = {number for (number,) in found}
    return [number in known for number in range(len(offers))]


_PAYLOAD = "json_extract(result, '$.payload')"
_OUTCOME = f"CASE WHEN json_valid(result) THEN json_extract({_PAYLOAD}, '$.outcome') END"


def _ledger(file: sqlite3.Connection, limit: int) -> list[LedgerLine]:
    names = LedgerLine.__struct_fields__
    columns = [f"{_OUTCOME} AS outcome" if name == "outcome" else name for name in names]
    query = (
        f"SELECT {', '.join(columns)} FROM attempts LEFT JOIN papers USING (seq) "  # noqa: S608
        "WHERE status IS NOT NULL ORDER BY seq DESC LIMIT ?"
    )
    return [msgspec.convert(dict(zip(names, line, strict=True)), LedgerLine) for line in file.execute(query, (limit,))]


def _bundle(file: sqlite3.Connection, task_id: str) -> wire.ReceiptBundle | None:
    papers = file.execute(
        "SELECT offer, result, receipt, output FROM attempts JOIN papers USING (seq) JOIN receipts USING (seq) "
        "WHERE task_id = ? ORDER BY status = 'accepted' DESC, seq DESC LIMIT 1",
        (task_id,),
    ).fetchone()
    if papers is None:
        return None
    offer, result, receipt = map(_signed, papers[:3])
    return wire.ReceiptBundle(
        coordinator_key=receipt.key, offer=offer, result=result, receipt=receipt, output=papers[3]
    )


def _delivered(file: sqlite3.Connection, key: LeaseKey) -> Delivered | None:
    found = file.execute(
        "SELECT offer, result, receipt FROM attempts LEFT JOIN papers USING (seq) LEFT JOIN receipts USING (seq) "
        "WHERE task_id = ? AND attempt = ? AND fence = ?",
        (key.task_id, key.attempt, key.fence),
    ).fetchone()
    if found is None:
        return None
    try:
        offer, result, receipt = (None if text is None else _signed(text) for text in found)
    except DamagedError:  # of this one row: the page itself could be read
        return Delivered()
    return Delivered(offer=offer, result=result, receipt=receipt)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
