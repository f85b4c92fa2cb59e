"""Brings what a damaged outbox still holds into a fresh one: what waits, the ledger, then the papers of the ledger."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import msgspec

from agent.core import wire
from agent.core.model import Signed, Value
from agent.edges.salvage import DamagedFile, told

_LINE = ("task_id", "attempt", "fence", "idem_key", "status", "amount_micros", "currency", "received_at")
_STATUS = _LINE.index("status")
_PAPERS_AT_ONCE = 64
"""Attempts in one transaction. Papers are large: the write-ahead log must not grow to the size of the file."""


T = TypeVar("T")


class _Line(Value):
    """A row of `attempts`, checked."""

    task_id: str
    attempt: int
    fence: int
    idem_key: str
    status: wire.ReceiptStatus | None = None
    amount_micros: int | None = None
    currency: str | None = None
    received_at: int | None = None


class _Papers(NamedTuple):
    """A row of `papers`, with its receipt; texts are kept as they are."""

    offer: str
    result: str
    output: str | None
    receipt: str | None


def salvage(damaged: DamagedFile, fresh: sqlite3.Connection) -> str:
    """What was rescued and what was lost, in words. Raises sqlite3.Error of the fresh file."""
    return _Salvage(damaged, fresh).run()


class _Salvage:
    """Messages say themselves whose they are: a line that cannot be read is made again from its papers."""

    def __init__(self, damaged: DamagedFile, fresh: sqlite3.Connection) -> None:
        self._damaged = damaged
        self._fresh = fresh
        self._lines = damaged.numbers("attempts")
        self._papers = damaged.numbers("papers")

    def run(self) -> str:
        """All of it, what matters most first."""
        waiting = self._transact(self._rescue_waiting(seq) for seq in self._papers)
        settled = self._transact(self._rescue_line(seq) for seq in self._lines)
        newest = sorted(self._papers, reverse=True)
        for start in range(0, len(newest), _PAPERS_AT_ONCE):
            settled += self._transact(self._rescue_papers(seq) for seq in newest[start : start + _PAPERS_AT_ONCE])
        lost = sum(self._is_lost(seq) for seq in self._lines)
        return told(
            (
                (waiting, "waiting results rescued"),
                (lost, "waiting results lost"),
                (settled, "lines of the ledger rescued"),
            )
        )

    def _transact(self, counts: Iterable[int]) -> int:
        self._fresh.execute("BEGIN IMMEDIATE")
        total = sum(counts)
        self._fresh.execute("COMMIT")
        return total

    # ----------------------------------------------------------------- one attempt

    def _rescue_waiting(self, seq: int) -> int:
        line, papers = self._line(seq), self._papers_of(seq)
        if papers is None or papers.receipt is not None or (line and line.status is not None):
            return 0
        line = line or _from_result(papers)
        return self._keep(seq, line, papers) if line else 0

    def _rescue_line(self, seq: int) -> int:
        line = self._line(seq)
        return self._keep(seq, line, None) if line and line.status is not None else 0

    def _rescue_papers(self, seq: int) -> int:
        """1 when its line had to be made again."""
        papers = self._papers_of(seq)
        if papers is None or papers.receipt is None:
            return 0
        line = self._line(seq)
        if line is not None and line.status is not None:
            self._keep_papers(seq, papers)
            return 0
        made = _from_receipt(papers)
        return self._keep(seq, made, papers) if made else 0

    def _is_lost(self, seq: int) -> bool:
        line = self._line(seq)
        if line is None or line.status is not None:
            return False
        return self._fresh.execute("SELECT 1 FROM attempts WHERE seq = ?", (seq,)).fetchone() is None

    # ----------------------------------------------------------------- reading, writing

    def _line(self, seq: int) -> _Line | None:
        row = self._damaged.row("attempts", ", ".join(_LINE), seq)
        if row is None or (row[_STATUS] is not None and None in row):
            return None
        try:
            return msgspec.convert(dict(zip(_LINE, row, strict=True)), _Line)
        except msgspec.ValidationError:
            return None

    def _papers_of(self, seq: int) -> _Papers | None:
        """None when something of it cannot be read."""
        row = self._damaged.row("papers", "offer, result, output", seq)
        (receipt,) = self._damaged.row("receipts", "receipt", seq) or (None,)
        if row is None:
            return None
        offer, result, output = row
        papers = _Papers(offer, result, output, receipt)
        body = _signed_body(result, wire.ResultBody)
        if (
            body is not None
            and output is not None
            and hashlib.sha256(output.encode()).hexdigest() != body.output_sha256
        ):
            return None  # no checksum of SQLite's tells
        sound = all(_read(text, Signed) for text in (papers.offer, papers.result, papers.receipt) if text is not None)
        return papers if sound else None

    def _keep(self, seq: int, line: _Line, papers: _Papers | None) -> int:
        """1, or 0 when the attempt is there already."""
        values = msgspec.structs.astuple(line)
        kept = self._fresh.execute(
            f"INSERT OR IGNORE INTO attempts (seq, {', '.join(_LINE)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (seq, *values),
        ).rowcount
        if kept and papers:
            self._keep_papers(seq, papers)
        return kept

    def _keep_papers(self, seq: int, papers: _Papers) -> None:
        values = (seq, papers.offer, papers.result, papers.output)
        self._fresh.execute("INSERT OR IGNORE INTO papers VALUES (?, ?, ?, ?)", values)
        if papers.receipt is not None:
            self._fresh.execute("INSERT OR IGNORE INTO receipts VALUES (?, ?)", (seq, papers.receipt))


def _from_result(papers: _Papers) -> _Line | None:
    body = _signed_body(papers.result, wire.ResultBody)
    if body is None:
        return None
    return _Line(task_id=body.task_id, attempt=body.attempt, fence=body.fence, idem_key=body.idem_key)


def _from_receipt(papers: _Papers) -> _Line | None:
    body = _signed_body(papers.receipt, wire.ReceiptBody)
    if body is None:
        return None
    return _Line(
        task_id=body.task_id,
        attempt=body.attempt,
        fence=body.fence,
        idem_key=body.idem_key,
        status=body.status,
        amount_micros=body.amount_micros,
        currency=body.currency,
        received_at=body.received_at,
    )


def _signed_body(message: str | None, type_: type[T]) -> T | None:
    signed = _read(message, Signed)
    return _read(signed.payload, type_) if signed else None


def _read(text: str | None, type_: type[T]) -> T | None:
    try:
        return None if text is None else msgspec.json.decode(text, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
