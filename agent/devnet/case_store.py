"""Cases in the database: open ones, which the coordinator has in memory too, and judged ones, asked for here."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from typing import TypeVar

import msgspec

from agent.core.wire import encode
from agent.devnet.core.effects import DropCase, ProofWrite, SaveCase, SaveEpoch, SaveJudged, SaveStanding
from agent.devnet.core.proofs.docket import not_needed
from agent.devnet.core.proofs.records import Case, CaseState

SCHEMA = """
CREATE TABLE IF NOT EXISTS epochs (number INTEGER PRIMARY KEY, doc BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cases (line INTEGER PRIMARY KEY, case_id TEXT NOT NULL UNIQUE, doc BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS judged_cases
    (line INTEGER PRIMARY KEY, case_id TEXT NOT NULL UNIQUE, task_id TEXT, opening TEXT, evidence TEXT,
    spent_at INTEGER, doc BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS judged_case_of_task ON judged_cases (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS judged_case_opening ON judged_cases (opening) WHERE opening IS NOT NULL;
CREATE INDEX IF NOT EXISTS judged_case_evidence ON judged_cases (evidence) WHERE evidence IS NOT NULL;
CREATE INDEX IF NOT EXISTS judged_case_spent ON judged_cases (spent_at) WHERE spent_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS standings (node_id TEXT PRIMARY KEY, doc BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS judged
    (node_id TEXT NOT NULL, serial INTEGER NOT NULL, doc BLOB NOT NULL, PRIMARY KEY (node_id, serial));
"""
"""Judged ones are in the order of judgement. Their `task_id` is null for a canary, `spent_at` where none may go."""
_CASES = msgspec.json.Decoder(Case)
V = TypeVar("V")
Query = Callable[[sqlite3.Connection], V]


def apply(connection: sqlite3.Connection, write: ProofWrite) -> None:
    """One write, in a transaction."""
    match write:
        case SaveEpoch(epoch=epoch):
            connection.execute("REPLACE INTO epochs VALUES (?, ?)", (epoch.number, encode(epoch)))
        case SaveCase(case=it):
            (_save_judged if it.state is CaseState.JUDGED else _save_open)(connection, it)
        case DropCase(case_id=case_id):
            connection.execute("DELETE FROM cases WHERE case_id = ?", (case_id,))
        case SaveStanding(standing=standing):
            connection.execute("REPLACE INTO standings VALUES (?, ?)", (standing.node_id, encode(standing)))
        case SaveJudged(judged=judged):
            connection.execute("INSERT INTO judged VALUES (?, ?, ?)", (judged.node_id, judged.serial, encode(judged)))


def _save_open(connection: sqlite3.Connection, case: Case) -> None:
    upsert = "INSERT INTO cases (case_id, doc) VALUES (?, ?) ON CONFLICT (case_id) DO UPDATE SET doc = excluded.doc"
    connection.execute(upsert, (case.case_id, encode(case)))


def _save_judged(connection: sqlite3.Connection, case: Case) -> None:
    connection.execute("DELETE FROM cases WHERE case_id = ?", (case.case_id,))
    connection.execute(
        "INSERT INTO judged_cases (case_id, task_id, opening, evidence, spent_at, doc) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (case_id) DO UPDATE SET (opening, evidence, spent_at, doc) = "
        "(excluded.opening, excluded.evidence, excluded.spent_at, excluded.doc)",
        (
            case.case_id,
            None if case.canary else case.task_id,
            case.opening.sha256 if case.opening else None,
            case.evidence.sha256 if case.evidence else None,
            case.judged_at if not_needed(case) else None,
            encode(case),
        ),
    )


def open_cases(connection: sqlite3.Connection) -> tuple[Case, ...]:
    """In the order in which they appeared. Judged ones that an older version left among them are put where they are
    looked for now.
    """
    every = [_CASES.decode(doc) for (doc,) in connection.execute("SELECT doc FROM cases ORDER BY line")]
    if judged := [case for case in every if case.state is CaseState.JUDGED]:
        connection.execute("BEGIN IMMEDIATE")  # all or none: a crash here loses nothing
        for case in judged:
            _save_judged(connection, case)
        connection.execute("COMMIT")
    return tuple(case for case in every if case.state is not CaseState.JUDGED)


def judged_case(task_id: str) -> Query[Case | None]:
    """The case of a task's result, once it is judged."""
    return lambda connection: next(
        iter(_decoded(connection, "SELECT doc FROM judged_cases WHERE task_id = ?", (task_id,))), None
    )


def last_judged(most: int) -> Query[tuple[Case, ...]]:
    """The newest first."""
    return lambda connection: _decoded(connection, "SELECT doc FROM judged_cases ORDER BY line DESC LIMIT ?", (most,))


def spent(until: int, most: int) -> Query[tuple[Case, ...]]:
    """Judged by this time (Unix seconds), and with exhibits that may go; the oldest first."""
    query = "SELECT doc FROM judged_cases WHERE spent_at <= ? ORDER BY spent_at LIMIT ?"
    return lambda connection: _decoded(connection, query, (until, most))


def exhibits_of_judged(connection: sqlite3.Connection) -> frozenset[str]:
    """Digests of all that is kept for judged cases."""
    query = (
        "SELECT opening FROM judged_cases WHERE opening IS NOT NULL "
        "UNION SELECT evidence FROM judged_cases WHERE evidence IS NOT NULL"
    )
    return frozenset(sha256 for (sha256,) in connection.execute(query))


def unnamed(sha256s: Collection[str]) -> Query[tuple[str, ...]]:
    """Those that no judged case names."""

    def query(connection: sqlite3.Connection) -> tuple[str, ...]:
        names = "SELECT 1 FROM judged_cases WHERE opening = ?1 UNION ALL SELECT 1 FROM judged_cases WHERE evidence = ?1"
        return tuple(it for it in sha256s if connection.execute(f"{names} LIMIT 1", (it,)).fetchone() is None)

    return query


def _decoded(connection: sqlite3.Connection, query: str, values: tuple[object, ...]) -> tuple[Case, ...]:
    return tuple(_CASES.decode(doc) for (doc,) in connection.execute(query, values))
