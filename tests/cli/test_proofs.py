"""What `gpu-agent proofs` and `gpu-agent tasks` show of challenges and judgements."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.cli import local, tasks
from agent.cli.absent import elsewhere
from agent.cli.main import run
from agent.cli.proofs import screen, summary
from agent.core import wire
from agent.core.challenges import ChallengeLine, ChallengeOutcome, ProofStory, ProofTotals
from agent.edges.control import MAX_LISTED, ControlServer
from agent.edges.outbox import LedgerLine
from tests.cli.test_status import Daemon, gpu_agent

LINE = ChallengeLine(
    challenge_id="c",
    task_id="t-1",
    attempt=1,
    fence=1,
    kind=wire.ChallengeKind.DRAWN,
    asked_at=1_700_000_000.0,
    due_at=1_700_003_600.0,
)
BODY = wire.JudgementBody(
    serial=1,
    node_id="n",
    subject=wire.Subject.ANSWER,
    task_id="t-1",
    attempt=1,
    fence=1,
    judgement=wire.Judgement.FAILED,
    detail="S: 54 of 64 tokens\x1b[2J",
    validators=1,
    slashed_micros=2_000_000,
    stake_micros=8_000_000,
    judged_at=1_700_000_100,
)
STORY = ProofStory(
    totals=ProofTotals(challenges={ChallengeOutcome.OPENED: 1}, stake_micros=8_000_000, slashed_micros=2_000_000),
    challenges=(
        msgspec.structs.replace(
            LINE, outcome=ChallengeOutcome.OPENED, leaves=4, opened_bytes=4096, answered_at=LINE.asked_at + 65
        ),
        LINE,
        msgspec.structs.replace(LINE, task_id="t\x1b[31m-2", kind=wire.ChallengeKind.REVEAL),
    ),
    judgements=(BODY,),
)


def shown(story: ProofStory) -> str:
    return "\n".join(screen(json.loads(msgspec.json.encode(story))))


def test_one_table_says_what_was_opened_and_another_how_it_was_judged() -> None:
    text = shown(STORY)
    for words in (
        "1 challenged; stake 8.0, 2.0 slashed",
        "2023-11-14 22:13:20Z  t-1   1        drawn             4       opened, 4 KiB after 1 min 5 s",
        "t-1   1        drawn             all     is being answered",
        "t-2   1        verdict revealed  all     is being answered",
        "22:15:00Z  t-1   1        answer          2.0      8.0    failed by 1 validator: S: 54 of 64 tokens",
    ):
        assert words in text
    assert "\x1b" not in text
    assert shown(ProofStory()).startswith("Nothing was challenged yet. A coordinator draws some results by chance")


@pytest.mark.parametrize("verb", ["proofs", "tasks"])
def test_who_looks_where_no_node_has_worked_is_told_where_to_look(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    demo = tmp_path / "cache" / "demo" / "node.toml"
    places = ["-s", f"node.state_dir={tmp_path}", "-s", f"control.socket={tmp_path}/c.sock"]
    assert run([verb, *places]) == 0
    out = capsys.readouterr().out
    assert f"No node has worked with {tmp_path} (node.state_dir) yet." in out
    assert "→ to see it all happen here: gpu-agent demo" in out
    assert str(demo) not in out
    demo.parent.mkdir(parents=True)
    demo.touch()
    assert run([verb, *places]) == 0
    assert f"→ for the node of the last demo: gpu-agent {verb} -c {demo}" in capsys.readouterr().out
    (tmp_path / "outbox.db").touch()
    assert list(elsewhere(tmp_path, verb)) == []


def test_who_is_not_root_is_told_of_the_system_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "  → for the system service: sudo gpu-agent tasks" in elsewhere(tmp_path / "mine", "tasks", tmp_path)


def test_what_verdicts_earned_is_shown_with_the_line_that_says_so() -> None:
    paid = msgspec.structs.replace(
        BODY,
        subject=wire.Subject.VERDICT,
        judgement=wire.Judgement.PASSED,
        detail="its verdict stands",
        slashed_micros=0,
        earned_micros=50,
        currency="credit\x1b[2J",
    )
    totals = ProofTotals(judgements=(), earned_micros=150, currency="credit", stake_micros=8_000_000, barred=True)
    text = shown(ProofStory(totals=totals, judgements=(paid,)))
    assert "earned 0.000150 credit by verdicts, no checks by the latest judgement; stake 8.0" in text
    assert "verdict  0.000050 credit" in text
    assert "\x1b" not in text
    _head, row = tasks.screen((), (paid,))
    assert "verdict" in row
    assert "0.000050 credit" in row


def test_the_summary_is_one_line_that_leaves_out_what_did_not_happen() -> None:
    told = {"challenges": {"opened": 3}, "judgements": [{"subject": "answer", "judgement": "passed", "count": 3}]}
    assert summary({**told, "stake_micros": 10_000_000}) == "3 challenged, 3 passed; stake 10.0"
    assert summary({"challenges": {"missed": 1, "asked": 1}}) == (
        "2 challenged, 1 being answered, 1 not answered in time"
    )


def test_what_was_slashed_stands_in_the_ledger_at_its_time() -> None:
    earned = [
        LedgerLine(
            task_id=task,
            attempt=1,
            idem_key=task,
            status=wire.ReceiptStatus.ACCEPTED,
            amount_micros=250,
            currency="USD",
            received_at=at,
        )
        for task, at in (("late", 1_700_000_200), ("t-1", 1_700_000_000))
    ]
    _, *rows = tasks.screen(earned, [BODY])
    assert [row.split()[2] for row in rows] == ["late", "t-1", "t-1"]
    assert rows[1].endswith("slashed        -2.000000 of the stake")
    assert len(list(tasks.screen(earned, [BODY], 2))) == 3


class Asked(Daemon):
    """A daemon that remembers for how much it was asked."""

    limits: list[int]

    async def proofs(self, limit: int) -> ProofStory:
        self.limits.append(limit)
        return STORY


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Asked]:
    asked = Asked()
    asked.limits = []
    server = ControlServer(tmp_path / "c.sock", asked)
    await server.start()
    yield asked
    await server.close()


async def test_the_daemon_is_asked_before_the_disk_and_for_no_more_than_is_wanted(
    daemon: Asked, tmp_path: Path
) -> None:
    places = ["-s", f"node.state_dir={tmp_path}", "-s", f"control.socket={tmp_path}/c.sock"]
    code, out, err = await gpu_agent("proofs", "--json", "-n", "7", *places)
    assert (code, err) == (0, "")
    assert msgspec.json.decode(out, type=ProofStory) == STORY
    for route in ("/v1/proofs", "/v1/proofs?limit=-1", "/v1/proofs?limit=99999999", "/v1/proofs?limit=²"):
        quoted = urllib.parse.quote(route, safe="/?=")
        await asyncio.to_thread(local.ask, tmp_path / "c.sock", "GET", quoted)
    assert daemon.limits == [7] + [MAX_LISTED] * 4
