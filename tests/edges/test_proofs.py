"""Challenges and judgements on the disk."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.core import wire
from agent.core.challenges import ChallengeLine, ChallengeOutcome, ProofStory
from agent.core.payloads import Judgement, Subject
from agent.edges.proofs import SqliteProofs, read_money, read_proofs
from agent.edges.signing import KeyPair
from tests.builders import NODE
from tests.fakes.examiner import judgement
from tests.patience import PATIENCE_S

KEYS = KeyPair.generate()
ASKED, OPENED, MISSED = ChallengeOutcome.ASKED, ChallengeOutcome.OPENED, ChallengeOutcome.MISSED


def line(number: int, outcome: ChallengeOutcome = ASKED, **changes) -> ChallengeLine:
    fields = {
        "challenge_id": f"c{number}",
        "task_id": f"t{number}",
        "attempt": 1,
        "fence": 1,
        "kind": wire.ChallengeKind.DRAWN,
        "asked_at": 1000.0 + number,
        "due_at": 2000.0,
        "outcome": outcome,
    }
    return ChallengeLine(**{**fields, **changes})


async def keep(proofs: SqliteProofs, serial: int, **changes):
    signed = judgement(KEYS, serial, **changes)
    return await proofs.keep(signed, msgspec.json.decode(signed.payload, type=wire.JudgementBody))


def sound(what: str) -> None:
    """For files of which no damage is expected."""
    raise AssertionError(what)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "proofs.db"


@pytest.fixture
async def proofs(path: Path):
    opened = await SqliteProofs.open(path, sound, NODE)
    yield opened
    await opened.close()


async def test_each_challenge_counts_once_for_what_became_of_it(proofs: SqliteProofs) -> None:
    await proofs.note([line(1), line(2), line(3)])
    totals = await proofs.note([line(1, OPENED), line(2, MISSED)])
    assert totals.challenges == {ASKED: 1, OPENED: 1, MISSED: 1}
    totals = await proofs.note([line(1), line(3, OPENED)])  # the first is asked again: it stays answered
    assert totals.challenges == {OPENED: 2, MISSED: 1}
    assert [(it.challenge_id, it.outcome) for it in (await proofs.story(2)).challenges] == [
        ("c3", OPENED),
        ("c2", MISSED),
    ]


async def test_judgements_are_kept_one_after_another_and_never_with_a_gap(path: Path, proofs: SqliteProofs) -> None:
    assert (await keep(proofs, 2)).serial == 0
    assert (await keep(proofs, 1, judgement=Judgement.PASSED)).serial == 1
    assert (await keep(proofs, 1, judgement=Judgement.FAILED)).serial == 1
    totals = await keep(proofs, 2, judgement=Judgement.FAILED, slashed_micros=2_000_000, stake_micros=8_000_000)
    assert (totals.serial, totals.stake_micros, totals.slashed_micros) == (2, 8_000_000, 2_000_000)
    assert totals.judged(Subject.ANSWER, Judgement.PASSED) == 1
    assert totals.judged(Subject.ANSWER, Judgement.FAILED) == 1
    assert [body.serial for body in read_proofs(path, 9).judgements] == [2, 1]
    assert [body.serial for body in read_money(path, 9)] == [2]


async def test_what_verdicts_earned_is_kept_with_their_receipts_and_counted_once(
    path: Path, proofs: SqliteProofs
) -> None:
    paid = {"subject": Subject.VERDICT, "judgement": Judgement.PASSED, "earned_micros": 50, "currency": "credit"}
    for _ in range(2):
        totals = await keep(proofs, 1, **paid)
    assert (totals.earned_micros, totals.currency, totals.barred) == (50, "credit", False)
    await keep(proofs, 2)
    totals = await keep(proofs, 3, **{**paid, "earned_micros": 70, "barred": True})
    assert (totals.earned_micros, totals.currency, totals.barred) == (120, "credit", True)
    assert [body.earned_micros for body in read_money(path, 9)] == [70, 50]
    assert read_proofs(path, 9).totals == totals


async def test_a_database_of_an_agent_that_counted_no_earnings_is_read_and_brought_up_to_date(
    path: Path, proofs: SqliteProofs
) -> None:
    await keep(proofs, 1, slashed_micros=7)
    await proofs.close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.executescript("DROP TABLE earnings; PRAGMA user_version = 1;")
    assert (read_proofs(path, 9).totals.earned_micros, len(read_money(path, 9))) == (0, 1)
    again = await SqliteProofs.open(path, sound, NODE)
    assert (await keep(again, 2, earned_micros=5, currency="credit")).earned_micros == 5
    await again.close()


async def test_a_start_finds_what_is_still_asked_and_what_time_has_taken(path: Path, proofs: SqliteProofs) -> None:
    await proofs.note([line(1, due_at=1500.0), line(2, due_at=3000.0), line(3, OPENED)])
    await keep(proofs, 1)
    await proofs.close()
    again = await SqliteProofs.open(path, sound, NODE)
    totals, asked = await again.recall(2000.0)
    assert ([it.challenge_id for it in asked], totals.serial) == (["c2"], 1)
    assert totals.challenges == {ASKED: 1, OPENED: 1, MISSED: 1}
    (missed,) = [it for it in (await again.story(9)).challenges if it.outcome is MISSED]
    assert "did not run" in missed.detail
    await again.close()


async def test_a_node_that_is_enrolled_anew_is_judged_from_the_first_again(path: Path, proofs: SqliteProofs) -> None:
    await keep(proofs, 1, stake_micros=3)
    await proofs.close()
    again = await SqliteProofs.open(path, sound, "node-2")
    totals, _ = await again.recall(0.0)
    assert (totals.serial, totals.stake_micros) == (0, None)
    totals = await keep(again, 1, node_id="node-2", stake_micros=9)
    assert (totals.serial, totals.stake_micros) == (1, 9)
    assert len((await again.story(9)).judgements) == 2
    await again.close()


async def test_a_judgement_that_was_kept_survives_a_killed_process(path: Path) -> None:
    program = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "import msgspec\n"
        "from agent.core import wire\n"
        "from agent.core.model import Signed\n"
        "from agent.edges.proofs import SqliteProofs\n"
        "async def main():\n"
        "    proofs = await SqliteProofs.open(Path(sys.argv[1]), print, 'node-1')\n"
        "    signed = msgspec.json.decode(sys.argv[2], type=Signed)\n"
        "    await proofs.keep(signed, msgspec.json.decode(signed.payload, type=wire.JudgementBody))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    signed = msgspec.json.encode(judgement(KEYS, 1)).decode()
    ended = subprocess.run([sys.executable, "-c", program, str(path), signed], check=False, timeout=PATIENCE_S)
    assert ended.returncode == -signal.SIGKILL
    assert read_proofs(path, 9).totals.serial == 1


async def test_old_lines_go_and_stay_counted(path: Path) -> None:
    proofs = await SqliteProofs.open(path, sound, NODE, kept_lines=100)
    await proofs.note([line(0)])  # one that is still asked stays, however old
    for start in range(1, 400, 50):
        await proofs.note([line(number, OPENED) for number in range(start, start + 50)])
    told = await proofs.story(1000)
    assert 100 <= len(told.challenges) < 200
    assert told.challenges[-1].challenge_id == "c0"
    assert told.totals.challenges == {ASKED: 1, OPENED: 400}
    for serial in range(1, 129):
        await keep(proofs, serial)
    told = await proofs.story(1000)
    assert (len(told.judgements), told.judgements[0].serial) == (100, 128)
    assert told.totals.judged(Subject.ANSWER, Judgement.PASSED) == 128
    await proofs.close()


async def test_a_damaged_file_is_put_aside_and_all_judgements_are_asked_for_again(path: Path) -> None:
    first = await SqliteProofs.open(path, sound, NODE)
    await first.note([line(1, OPENED)])
    await keep(first, 1)
    await first.close()
    raw = path.read_bytes()
    path.write_bytes(raw[: 2 * 4096] + b"\xa5" * 4096 + raw[3 * 4096 :])
    told: list[str] = []
    again = await SqliteProofs.open(path, told.append, NODE)
    totals, _ = await again.recall(0.0)
    assert totals.serial == 0
    assert (await keep(again, 2)).serial == 0
    assert (await keep(again, 1)).serial == 1
    await again.close()
    assert "kept as proofs.db.corrupt-1" in told[0]


def test_where_no_agent_ran_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert read_proofs(tmp_path / "none.db", 9) == ProofStory()
    assert read_money(tmp_path / "none.db", 9) == ()
