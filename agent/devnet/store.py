"""SQLite: every decision is durable before its reply leaves. One thread, one connection, group commit."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.core.errors import StorageError
from agent.core.wire import ReceiptBody, encode
from agent.devnet import case_store
from agent.devnet.core.effects import (
    SaveDemand,
    SaveLedgerLine,
    SaveNode,
    SaveProgress,
    SaveSettlement,
    SaveToken,
    Write,
    blobs_named,
)
from agent.devnet.core.proofs.records import Epoch, Judged, Standing
from agent.devnet.core.records import Demand, LedgerLine, NodeRecord, Progress, Settlement, UsedToken
from agent.devnet.core.restoring import Remembered

SCHEMA_VERSION = 1
MAX_BATCH = 256
"""Decisions per transaction: bounds what the first of them waits for."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS fence (id INTEGER PRIMARY KEY CHECK (id = 0), highest INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS demands (task_id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, doc BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS progress (task_id TEXT PRIMARY KEY, doc BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS settlements
    (idem_key TEXT PRIMARY KEY, task_id TEXT NOT NULL, blob TEXT, receipt BLOB NOT NULL, doc BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS artifacts (idem_key TEXT PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (line INTEGER PRIMARY KEY, idem_key TEXT NOT NULL UNIQUE, doc BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS nodes (node_id TEXT PRIMARY KEY, doc BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (sha256 TEXT PRIMARY KEY, node_id TEXT NOT NULL);
"""

R = TypeVar("R")
V = TypeVar("V", bound=msgspec.Struct)


class _Job:
    """Something for the writer: writes of one decision, or a read."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any], done: asyncio.Future[Any], *, reads: bool) -> None:
        self.work = work
        self.done = done
        self.reads = reads
        self.value: Any = None
        self.error: Exception | None = None
        """Of a read: its own, and nobody else's."""


class Store:
    """The coordinator's memory. Open and use it from one event loop."""

    def __init__(self, path: Path, broken: Callable[[StorageError], None]) -> None:
        """`broken` is called once, on the event loop, when a write failed: then memory is ahead of the disk."""
        self._path = path
        self._broken = broken
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._fault: StorageError | None = None
        self._latest: asyncio.Future[None] | None = None

    async def open(self) -> Remembered:
        """Start the writer and read all back. Raises StorageError."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="coordinator-store", daemon=True)
        self._thread.start()
        await opened
        try:
            return await self.read(_remembered)
        except msgspec.MsgspecError as error:
            remedy = "Start the version that wrote it, or restore it from a backup"
            raise StorageError(f"{self._path} holds what this version cannot read: {error}", remedy=remedy) from error

    def commit(self, writes: Iterable[Write]) -> asyncio.Future[None]:
        """Done when all of `writes` are on the disk, in the order of the calls. Raises StorageError."""
        done: asyncio.Future[None] = self._loop.create_future()
        kept = tuple(writes)
        self._jobs.put(_Job(lambda connection: _apply(connection, kept), done, reads=False))
        self._latest = done
        return done

    @property
    def latest(self) -> asyncio.Future[None] | None:
        """The commit that is done when all are; None when nothing is on its way to the disk."""
        return self._latest if self._latest and not self._latest.done() else None

    async def read(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run a query after all writes before it. Raises StorageError, or what `work` raises; the store goes on."""
        done: asyncio.Future[R] = self._loop.create_future()
        self._jobs.put(_Job(work, done, reads=True))
        return await done

    async def close(self) -> None:
        """Write what is left and end the thread."""
        if self._thread and self._thread.is_alive():
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    # ----------------------------------------------------------------------- the writer's thread

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            connection = _connect(self._path)
        except (sqlite3.Error, OSError, StorageError) as error:
            self._loop.call_soon_threadsafe(opened.set_exception, _storage_error(self._path, error))
            return
        with closing(connection):
            self._loop.call_soon_threadsafe(opened.set_result, None)
            while batch := self._next_batch():
                self._commit(connection, batch)

    def _next_batch(self) -> list[_Job]:
        """Whatever waits, at least one job; empty at the end. A `None` ends this batch and the thread after it."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == MAX_BATCH or self._jobs.empty():
                return batch
            job = self._jobs.get()
        if batch:
            self._jobs.put(None)
        return batch

    def _commit(self, connection: sqlite3.Connection, batch: list[_Job]) -> None:
        """The writes of a batch in one transaction; then its reads, of which none can harm another or a write."""
        first = self._fault is None
        try:
            if first:
                _write(connection, [job for job in batch if not job.reads])
        except Exception as error:  # noqa: BLE001  (a thread that died of it would leave everybody waiting, unseen)
            self._fault = _storage_error(self._path, error)
        if self._fault:
            self._loop.call_soon_threadsafe(self._fail, batch, self._fault, first)
            return
        for job in batch:
            if job.reads:
                self._read(connection, job)
        self._loop.call_soon_threadsafe(_finish, batch)

    def _read(self, connection: sqlite3.Connection, job: _Job) -> None:
        try:
            job.value = job.work(connection)
        except (sqlite3.Error, OSError) as error:
            job.error = _storage_error(self._path, error)
        except Exception as error:  # noqa: BLE001  (a document that does not decode: told to whoever asked for it)
            job.error = error

    def _fail(self, batch: list[_Job], fault: StorageError, first: bool) -> None:
        if first:
            self._broken(fault)
        for job in batch:
            if not job.done.done():
                job.done.set_exception(fault)
                job.done.exception()  # whoever waited may be gone; `broken` has told it already


def _write(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    if jobs:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            job.work(connection)
        connection.execute("COMMIT")


def _finish(batch: list[_Job]) -> None:
    for job in batch:
        if job.done.done():
            continue
        if job.error is None:
            job.done.set_result(job.value)
        else:
            job.done.set_exception(job.error)


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # SQLite gives its log files the same mode; prompts are nobody else's business
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, SCHEMA_VERSION):
        raise StorageError(f"{path} has schema {version}, this version reads {SCHEMA_VERSION}")
    connection.executescript(_SCHEMA + case_store.SCHEMA)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    return connection


def _storage_error(path: Path, error: Exception) -> StorageError:
    if isinstance(error, StorageError):
        return error
    full = isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    remedy = "Free some space and start the coordinator again" if full else "Check the disk and the file's owner"
    fault = StorageError(f"cannot use {path}: {error}", full=full, remedy=remedy)
    fault.__cause__ = error
    return fault


def _apply(connection: sqlite3.Connection, writes: tuple[Write, ...]) -> None:
    for write in writes:
        _apply_one(connection, write)


def _apply_one(connection: sqlite3.Connection, write: Write) -> None:
    match write:
        case SaveDemand(demand=demand):
            row = (demand.spec.task_id, demand.number, encode(demand))
            connection.execute("INSERT INTO demands VALUES (?, ?, ?)", row)
        case SaveProgress(task_id=task_id, fence=fence, progress=progress):
            connection.execute("REPLACE INTO progress VALUES (?, ?)", (task_id, encode(progress)))
            connection.execute("REPLACE INTO fence VALUES (0, ?)", (fence,))
        case SaveSettlement(settlement=it):
            row_of = (it.idem_key, it.task_id, it.blob, encode(it.receipt_body), encode(it))
            connection.execute("INSERT INTO settlements VALUES (?, ?, ?, ?, ?)", row_of)
            if it.artifact:
                connection.execute("INSERT INTO artifacts VALUES (?, ?)", (it.idem_key, it.artifact.sha256))
        case SaveLedgerLine(line=line):
            connection.execute("INSERT INTO ledger (idem_key, doc) VALUES (?, ?)", (line.idem_key, encode(line)))
        case SaveNode(record=record):
            connection.execute("REPLACE INTO nodes VALUES (?, ?)", (record.node_id, encode(record)))
        case SaveToken(token=token):
            connection.execute("REPLACE INTO tokens VALUES (?, ?)", (token.sha256, token.node_id))
        case _:
            case_store.apply(connection, write)


# --------------------------------------------------------------------------- queries


def settlement_of(idem_key: str) -> Callable[[sqlite3.Connection], Settlement | None]:
    """The accepted result with this key."""

    def query(connection: sqlite3.Connection) -> Settlement | None:
        row = connection.execute("SELECT doc FROM settlements WHERE idem_key = ?", (idem_key,)).fetchone()
        return msgspec.json.decode(row[0], type=Settlement) if row else None

    return query


def ledger(connection: sqlite3.Connection) -> tuple[LedgerLine, ...]:
    """All lines, oldest first."""
    return _decoded(connection, "SELECT doc FROM ledger ORDER BY line", LedgerLine)


def blobs_in_use(connection: sqlite3.Connection) -> frozenset[str]:
    """Digests of blobs that an accepted result or a task names."""
    query = "SELECT blob FROM settlements WHERE blob IS NOT NULL UNION SELECT sha256 FROM artifacts"
    asked = (SaveDemand(demand=it) for it in _decoded(connection, "SELECT doc FROM demands", Demand))
    return frozenset(row[0] for row in connection.execute(query)).union(*map(blobs_named, asked))


def _remembered(connection: sqlite3.Connection) -> Remembered:
    fence = connection.execute("SELECT highest FROM fence").fetchone()
    progress = connection.execute("SELECT task_id, doc FROM progress")
    tokens = connection.execute("SELECT sha256, node_id FROM tokens")
    return Remembered(
        fence=fence[0] if fence else 0,
        demands=_decoded(connection, "SELECT doc FROM demands ORDER BY number", Demand),
        progress={task_id: msgspec.json.decode(doc, type=Progress) for task_id, doc in progress},
        receipts=_decoded(connection, "SELECT receipt FROM settlements", ReceiptBody),
        nodes=_decoded(connection, "SELECT doc FROM nodes", NodeRecord),
        tokens=tuple(UsedToken(sha256=sha256, node_id=node_id) for sha256, node_id in tokens),
        epoch=next(iter(_decoded(connection, "SELECT doc FROM epochs ORDER BY number DESC LIMIT 1", Epoch)), None),
        cases=case_store.open_cases(connection),
        standings=_decoded(connection, "SELECT doc FROM standings", Standing),
        judged=_decoded(connection, "SELECT doc FROM judged ORDER BY node_id, serial", Judged),
    )


def _decoded(connection: sqlite3.Connection, query: str, kind: type[V]) -> tuple[V, ...]:
    decoder = msgspec.json.Decoder(kind)
    return tuple(decoder.decode(doc) for (doc,) in connection.execute(query))
