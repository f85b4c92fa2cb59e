"""Challenges and judgements of this node, in a small database beside the outbox."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from agent.core import wire
from agent.core.challenges import ChallengeLine, ChallengeOutcome, Judged, ProofStory, ProofTotals
from agent.core.model import Signed
from agent.core.payloads import Judgement, Subject
from agent.edges.database import Database
from agent.edges.sqlite_faults import DamagedError
from agent.edges.sqlite_file import read_only

PROOFS_NAME = "proofs.db"
KEPT_LINES = 20_000
"""The newest of each kind, some 15 MB; what is older is counted, and no longer listed."""
_LOOK_EVERY = 64
AWAY = "the agent did not run until the time was over, or ended before it wrote down what it answered"

_SCHEMA = (
    (
        """CREATE TABLE challenges (
            seq INTEGER PRIMARY KEY, challenge_id TEXT NOT NULL UNIQUE,
            outcome TEXT NOT NULL, due_at REAL NOT NULL, line TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX asked ON challenges (due_at) WHERE outcome = 'asked'",
        """CREATE TABLE judgements (
            serial INTEGER PRIMARY KEY, slashed_micros INTEGER NOT NULL, body TEXT NOT NULL, signed TEXT NOT NULL
        ) STRICT""",
        # What lines are counted as outlives the lines.
        "CREATE TABLE outcomes (outcome TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT",
        """CREATE TABLE sorts (
            subject TEXT NOT NULL, judgement TEXT NOT NULL, count INTEGER NOT NULL, slashed_micros INTEGER NOT NULL,
            PRIMARY KEY (subject, judgement)
        ) STRICT""",
    ),
)


class SqliteProofs:
    """The port `Proofs`."""

    def __init__(self, database: Database, kept_lines: int) -> None:
        self._database = database
        self._kept_lines = kept_lines

    @classmethod
    async def open(cls, path: Path, recovered: Callable[[str], None], *, kept_lines: int = KEPT_LINES) -> SqliteProofs:
        """Open or create the database at `path`. Raises StorageError.

        A damaged file is put aside for an empty one, now or at any later time; `recovered` is told so, on this loop.
        """
        loop = asyncio.get_running_loop()

        def tell(what: str) -> None:
            loop.call_soon_threadsafe(recovered, what)

        return cls(await asyncio.to_thread(Database, path, _SCHEMA, tell), kept_lines)

    async def note(self, lines: Sequence[ChallengeLine]) -> ProofTotals:
        """See the port."""
        return await self._database.run_unflushed(lambda file: _note(file, lines, self._kept_lines))

    async def keep(self, judgement: Signed, body: wire.JudgementBody) -> ProofTotals:
        """See the port."""
        return await self._database.run(lambda file: _keep(file, judgement, body, self._kept_lines))

    async def recall(self, now: float) -> tuple[ProofTotals, Sequence[ChallengeLine]]:
        """See the port."""
        return await self._database.run_unflushed(lambda file: _recall(file, now, self._kept_lines))

    async def story(self, limit: int) -> ProofStory:
        """See the port."""
        return await self._database.read(lambda file: _story(file, limit))

    async def close(self) -> None:
        """Finish what was asked for, then close. Idempotent."""
        await self._database.close()


def read_proofs(path: Path, limit: int) -> ProofStory:
    """Of an agent that may be running; empty where none ran. Raises StorageError."""
    return read_only(path, lambda file: _story(file, limit)) or ProofStory()


def read_slashes(path: Path, limit: int) -> Sequence[wire.JudgementBody]:
    """The newest judgements that cost something. Raises StorageError."""
    return read_only(path, lambda file: _judgements(file, limit, "WHERE slashed_micros > 0")) or ()


# --------------------------------------------------------------------------- work inside a transaction


def _note(file: sqlite3.Connection, lines: Sequence[ChallengeLine], kept_lines: int) -> ProofTotals:
    for line in lines:
        _note_one(file, line, kept_lines)
    return _totals(file)


def _note_one(file: sqlite3.Connection, line: ChallengeLine, kept_lines: int) -> None:
    before = file.execute("SELECT outcome FROM challenges WHERE challenge_id = ?", (line.challenge_id,)).fetchone()
    if before is not None and line.outcome is ChallengeOutcome.ASKED:  # asked again: what was answered stays so
        return
    (seq,) = file.execute(
        "INSERT INTO challenges (challenge_id, outcome, due_at, line) VALUES (?, ?, ?, ?) ON CONFLICT (challenge_id) "
        "DO UPDATE SET (outcome, due_at, line) = (excluded.outcome, excluded.due_at, excluded.line) RETURNING seq",
        (line.challenge_id, line.outcome.value, line.due_at, _json(line)),
    ).fetchall()[0]
    if before is not None:
        file.execute("UPDATE outcomes SET count = count - 1 WHERE outcome = ?", before)
    file.execute(
        "INSERT INTO outcomes VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1", (line.outcome.value,)
    )
    if before is None and seq % _LOOK_EVERY == 0:
        file.execute("DELETE FROM challenges WHERE seq <= ? AND outcome <> 'asked'", (seq - kept_lines,))


def _keep(file: sqlite3.Connection, judgement: Signed, body: wire.JudgementBody, kept_lines: int) -> ProofTotals:
    (latest,) = file.execute("SELECT coalesce(max(serial), 0) FROM judgements").fetchone()
    if body.serial == latest + 1:  # else it is there, or those before it went with a damaged file and come again
        file.execute(
            "INSERT INTO judgements VALUES (?, ?, ?, ?)",
            (body.serial, body.slashed_micros, _json(body), _json(judgement)),
        )
        file.execute(
            "INSERT INTO sorts VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET count = count + 1, "
            "slashed_micros = slashed_micros + excluded.slashed_micros",
            (body.subject.value, body.judgement.value, body.slashed_micros),
        )
        if body.serial % _LOOK_EVERY == 0:
            file.execute("DELETE FROM judgements WHERE serial <= ?", (body.serial - kept_lines,))
    return _totals(file)


def _recall(file: sqlite3.Connection, now: float, kept_lines: int) -> tuple[ProofTotals, list[ChallengeLine]]:
    asked = [_line(text) for (text,) in file.execute("SELECT line FROM challenges WHERE outcome = 'asked'")]
    late = [line for line in asked if line.due_at <= now]
    missed = ChallengeOutcome.MISSED
    totals = _note(file, [msgspec.structs.replace(line, outcome=missed, detail=AWAY) for line in late], kept_lines)
    return totals, [line for line in asked if line.due_at > now]


def _story(file: sqlite3.Connection, limit: int) -> ProofStory:
    lines = file.execute("SELECT line FROM challenges ORDER BY seq DESC LIMIT ?", (limit,))
    return ProofStory(
        totals=_totals(file),
        challenges=tuple(_line(text) for (text,) in lines),
        judgements=tuple(_judgements(file, limit)),
    )


def _judgements(file: sqlite3.Connection, limit: int, which: str = "") -> list[wire.JudgementBody]:
    query = f"SELECT body FROM judgements {which} ORDER BY serial DESC LIMIT ?"  # noqa: S608
    return [_body(text) for (text,) in file.execute(query, (limit,))]


def _totals(file: sqlite3.Connection) -> ProofTotals:
    latest = file.execute("SELECT body FROM judgements ORDER BY serial DESC LIMIT 1").fetchone()
    body = _body(latest[0]) if latest else None
    sorts = file.execute("SELECT subject, judgement, count, slashed_micros FROM sorts").fetchall()
    outcomes = file.execute("SELECT outcome, count FROM outcomes WHERE count > 0")
    return ProofTotals(
        challenges={ChallengeOutcome(outcome): count for outcome, count in outcomes},
        judgements=tuple(
            Judged(subject=Subject(subject), judgement=Judgement(judgement), count=count)
            for subject, judgement, count, _ in sorts
        ),
        serial=body.serial if body else 0,
        stake_micros=body.stake_micros if body else None,
        slashed_micros=sum(slashed for *_, slashed in sorts),
    )


def _line(text: str) -> ChallengeLine:
    try:
        return msgspec.json.decode(text, type=ChallengeLine)
    except msgspec.DecodeError as error:
        raise DamagedError("a challenge in it cannot be read") from error


def _body(text: str) -> wire.JudgementBody:
    try:
        return msgspec.json.decode(text, type=wire.JudgementBody)
    except msgspec.DecodeError as error:
        raise DamagedError("a judgement in it cannot be read") from error


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
