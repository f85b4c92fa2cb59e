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
        # A node that is enrolled anew has another id, and serials that begin again.
        """CREATE TABLE judgements (
            seq INTEGER PRIMARY KEY, node_id TEXT NOT NULL, serial INTEGER NOT NULL, slashed_micros INTEGER NOT NULL,
            body TEXT NOT NULL, signed TEXT NOT NULL, UNIQUE (node_id, serial)
        ) STRICT""",
        # What lines are counted as outlives the lines.
        "CREATE TABLE outcomes (outcome TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT",
        """CREATE TABLE sorts (
            subject TEXT NOT NULL, judgement TEXT NOT NULL, count INTEGER NOT NULL, slashed_micros INTEGER NOT NULL,
            PRIMARY KEY (subject, judgement)
        ) STRICT""",
    ),
    ("CREATE TABLE earnings (currency TEXT PRIMARY KEY, micros INTEGER NOT NULL) STRICT",),
)


class SqliteProofs:
    """The port `Proofs`."""

    def __init__(self, database: Database, node_id: str, kept_lines: int) -> None:
        self._database = database
        self._node_id = node_id
        self._kept_lines = kept_lines

    @classmethod
    async def open(
        cls, path: Path, recovered: Callable[[str], None], node_id: str, *, kept_lines: int = KEPT_LINES
    ) -> SqliteProofs:
        """Open or create the database at `path`; serial and stake are told of `node_id`. Raises StorageError.

        A damaged file is put aside for an empty one, now or at any later time; `recovered` is told so, on this loop.
        """
        loop = asyncio.get_running_loop()

        def tell(what: str) -> None:
            loop.call_soon_threadsafe(recovered, what)

        return cls(await asyncio.to_thread(Database, path, _SCHEMA, tell), node_id, kept_lines)

    async def note(self, lines: Sequence[ChallengeLine]) -> ProofTotals:
        """See the port."""
        return await self._database.run_unflushed(lambda file: self._note(file, lines))

    async def keep(self, judgement: Signed, body: wire.JudgementBody) -> ProofTotals:
        """See the port."""
        return await self._database.run(lambda file: self._keep(file, judgement, body))

    async def recall(self, now: float) -> tuple[ProofTotals, Sequence[ChallengeLine]]:
        """See the port."""
        return await self._database.run_unflushed(lambda file: self._recall(file, now))

    async def story(self, limit: int) -> ProofStory:
        """See the port."""
        return await self._database.read(lambda file: _story(file, limit, self._node_id))

    async def close(self) -> None:
        """Finish what was asked for, then close. Idempotent."""
        await self._database.close()

    # ----------------------------------------------------------------- inside a transaction

    def _note(self, file: sqlite3.Connection, lines: Sequence[ChallengeLine]) -> ProofTotals:
        for line in lines:
            _note_one(file, line, self._kept_lines)
        return _totals(file, self._node_id)

    def _keep(self, file: sqlite3.Connection, judgement: Signed, body: wire.JudgementBody) -> ProofTotals:
        latest = "SELECT coalesce(max(serial), 0) FROM judgements WHERE node_id = ?"
        (serial,) = file.execute(latest, (body.node_id,)).fetchone()
        if body.serial == serial + 1:  # else it is there, or those before it went with a damaged file and come again
            _keep_one(file, judgement, body, self._kept_lines)
        return _totals(file, self._node_id)

    def _recall(self, file: sqlite3.Connection, now: float) -> tuple[ProofTotals, list[ChallengeLine]]:
        asked = [_line(text) for (text,) in file.execute("SELECT line FROM challenges WHERE outcome = 'asked'")]
        late = [line for line in asked if line.due_at <= now]
        missed = ChallengeOutcome.MISSED
        totals = self._note(file, [msgspec.structs.replace(line, outcome=missed, detail=AWAY) for line in late])
        return totals, [line for line in asked if line.due_at > now]


def read_proofs(path: Path, limit: int) -> ProofStory:
    """Of an agent that may be running; empty where none ran. Raises StorageError."""
    return read_only(path, lambda file: _story(file, limit)) or ProofStory()


def read_money(path: Path, limit: int) -> Sequence[wire.JudgementBody]:
    """The newest judgements that cost or earned something. Raises StorageError."""
    which = "WHERE slashed_micros > 0 OR json_extract(body, '$.earned_micros') > 0"
    return read_only(path, lambda file: _judgements(file, limit, which)) or ()


# --------------------------------------------------------------------------- work inside a transaction


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


def _keep_one(file: sqlite3.Connection, judgement: Signed, body: wire.JudgementBody, kept_lines: int) -> None:
    (seq,) = file.execute(
        "INSERT INTO judgements (node_id, serial, slashed_micros, body, signed) VALUES (?, ?, ?, ?, ?) RETURNING seq",
        (body.node_id, body.serial, body.slashed_micros, _json(body), _json(judgement)),
    ).fetchall()[0]
    file.execute(
        "INSERT INTO sorts VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET count = count + 1, "
        "slashed_micros = slashed_micros + excluded.slashed_micros",
        (body.subject.value, body.judgement.value, body.slashed_micros),
    )
    if body.earned_micros:
        file.execute(
            "INSERT INTO earnings VALUES (?, ?) ON CONFLICT DO UPDATE SET micros = micros + excluded.micros",
            (body.currency, body.earned_micros),
        )
    if seq % _LOOK_EVERY == 0:
        file.execute("DELETE FROM judgements WHERE seq <= ?", (seq - kept_lines,))


def _story(file: sqlite3.Connection, limit: int, node_id: str | None = None) -> ProofStory:
    lines = file.execute("SELECT line FROM challenges ORDER BY seq DESC LIMIT ?", (limit,))
    return ProofStory(
        totals=_totals(file, node_id),
        challenges=tuple(_line(text) for (text,) in lines),
        judgements=tuple(_judgements(file, limit)),
    )


def _judgements(file: sqlite3.Connection, limit: int, which: str = "") -> list[wire.JudgementBody]:
    query = f"SELECT body FROM judgements {which} ORDER BY seq DESC LIMIT ?"  # noqa: S608
    return [_body(text) for (text,) in file.execute(query, (limit,))]


def _totals(file: sqlite3.Connection, node_id: str | None) -> ProofTotals:
    """`node_id` None: of the node that was judged last."""
    latest = file.execute(
        "SELECT body FROM judgements WHERE node_id = coalesce(?, node_id) ORDER BY seq DESC LIMIT 1", (node_id,)
    ).fetchone()
    body = _body(latest[0]) if latest else None
    sorts = file.execute("SELECT subject, judgement, count, slashed_micros FROM sorts").fetchall()
    currency, earned_micros = _earned(file)
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
        earned_micros=earned_micros,
        currency=currency,
        barred=body is not None and body.barred,
    )


def _earned(file: sqlite3.Connection) -> tuple[str, int]:
    """In the currency in which most was."""
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version < len(_SCHEMA):  # read beside an agent, or after one, that did not count them
        return "", 0
    return file.execute("SELECT currency, micros FROM earnings ORDER BY micros DESC LIMIT 1").fetchone() or ("", 0)


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
