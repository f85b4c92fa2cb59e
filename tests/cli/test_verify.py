"""`gpu-agent verify`, `receipt` and `tasks` on real bundles and a real ledger."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.cli.main import run
from agent.core import wire
from agent.core.model import Outcome, Reason
from agent.core.payloads import Beacon, BeaconPromise, BeaconSource, Judgement, Subject
from agent.core.proof.commitment import commit
from agent.core.proof.leaves import join_leaves
from agent.core.proof.opening import open_leaves
from agent.edges.outbox import OUTBOX_NAME, SqliteOutbox
from agent.edges.signing import KeyPair
from agent.edges.transcripts import DIRECTORY_NAME, FileTranscripts
from agent.ports import OutboxRow
from tests import builders
from tests.core.proof.making import COORDINATOR_KEYS, bundle, header, judged, transcript

OFFER = builders.offer(spec=builders.task(max_tokens=64, temperature_micros=0))
KEPT = transcript(candidates=20)
"""Greedy, and always the likeliest token: as honest as a made-up transcript can be."""
GOOD = bundle(OFFER, result={"commitment": commit(header(KEPT, OFFER, n_probs=20), KEPT)})


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]):
    """Runs a command line; returns exit status, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def written(tmp_path: Path):
    def write(value: wire.ReceiptBundle | bytes) -> Path:
        path = tmp_path / "receipt.json"
        path.write_bytes(value if isinstance(value, bytes) else wire.encode(value))
        return path

    return write


def test_a_sound_receipt_is_told_check_by_check_on_one_screen(told, written):
    code, out, err = told("verify", written(GOOD))
    assert (code, err) == (0, "")
    assert out.count("✓") == 12
    assert "✗" not in out
    earned = "the attempt succeeded; the coordinator owes the node 1.234567 credit"
    assert out.splitlines()[-1] == f"RECEIPT IN ORDER (the model was not checked): {earned}"
    assert "--coordinator-key" in out
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 120


def test_with_the_coordinators_key_pinned_there_is_nothing_to_warn_of(told, written):
    code, out, _ = told("verify", written(GOOD), "--coordinator-key", COORDINATOR_KEYS.public_key)
    assert code == 0
    assert "taken from the bundle" not in out


def test_another_coordinators_receipt_is_refused(told, written):
    code, out, _ = told("verify", written(GOOD), "--coordinator-key", KeyPair.generate().public_key)
    assert code == 1
    assert "(coordinator_key)" in out


def test_a_tampered_receipt_says_what_held_and_what_did_not(told, written):
    code, out, _ = told("verify", written(msgspec.structs.replace(GOOD, output="{}")))
    assert code == 1
    assert out.count("✓") == 7
    assert "✗ the output is the one that was delivered" in out
    assert "(output_digest)" in out
    assert "NOT VERIFIED" in out
    assert "owes" not in out


def test_json_is_for_programs(told, written):
    code, out, _ = told("verify", "--json", written(GOOD))
    shown = json.loads(out)
    assert code == 0
    assert (shown["verified"], shown["failed"], shown["coordinator_pinned"]) == (True, None, False)
    assert (shown["task_id"], shown["amount_micros"], shown["outcome"]) == ("task-1", 1_234_567, "succeeded")
    code, out, _ = told("verify", "--json", written(msgspec.structs.replace(GOOD, output="{}")))
    shown = json.loads(out)
    assert code == 1
    assert (shown["verified"], shown["failed"]) == (False, "output_digest")
    assert "amount_micros" not in shown


def test_the_nodes_transcript_is_checked_too(told, written, tmp_path: Path):
    kept = tmp_path / "x.leaves"
    kept.write_bytes(b"".join(len(leaf).to_bytes(4, "little") + leaf for leaf in KEPT.leaves))
    code, out, _ = told("verify", written(GOOD), "--transcript", kept)
    assert code == 0
    assert "commitment and transcript fit together" in out
    kept.write_bytes(b"")
    code, out, _ = told("verify", written(GOOD), "--transcript", kept)
    assert code == 1
    assert "(transcript_root)" in out


def test_a_failed_attempt_verifies_as_what_it_is(told, written):
    lost = {"outcome": Outcome.HANDED_BACK, "reason": Reason.DRAIN_LIMIT, "output_sha256": "", "output_bytes": 0}
    code, out, _ = told("verify", written(bundle(output=None, result={**lost, "commitment": None})))
    assert code == 0
    assert "the attempt handed back" in out


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"coordinator_key":1}', b'{"coordinator_key":"\xed\xa0\x80"}', b"[" * 100_000],
)
def test_what_is_no_receipt_is_unreadable(told, written, content: bytes):
    code, out, err = told("verify", written(content))
    assert (code, out) == (2, "")
    assert "no receipt bundle" in err


def test_an_empty_file_and_a_saved_refusal_are_told_as_what_they_are(told, written):
    assert "is empty" in told("verify", written(b" \n"))[2]
    refusal = wire.Refusal(code=wire.RefusalCode.NOT_FOUND, message="task t-1 has\x1b[2J no receipt")
    code, out, err = told("verify", written(wire.encode(wire.DownFrame(msg=refusal))))
    assert (code, out) == (2, "")
    assert "it is the coordinator's refusal: task t-1 has no receipt" in err


def test_a_template_without_a_model_is_a_usage_error(told, written, tmp_path: Path):
    (tmp_path / "template").touch()
    code, _, err = told("verify", written(GOOD), "--chat-template", tmp_path / "template")
    assert code == 2
    assert "it needs --model" in err


@pytest.mark.parametrize(
    ("judgement", "status", "line", "end"),
    [
        ({}, 0, "✓ the coordinator judged this answer: passed, by 2 validators", "VERIFIED: the attempt succeeded"),
        (
            {"validators": 0},
            0,
            "✓ the coordinator judged this answer: passed",
            "RECEIPT IN ORDER (the model was not checked): ",
        ),
        (
            {
                "judgement": Judgement.FAILED,
                "validators": 1,
                "slashed_micros": 2_000_000,
                "detail": "0.93 apart\x1b[2J",
            },
            1,
            "✗ the coordinator judged this answer: failed, by 1 validator; 2 of stake taken",
            "NOT VERIFIED: the coordinator judged",
        ),
        ({"judgement": Judgement.UNOPENED}, 1, "✗ the coordinator judged this answer: not opened", "NOT VERIFIED: "),
        ({"judgement": Judgement.SUSPECT}, 3, "· the coordinator judged this answer: suspect", "SUSPECT: "),
        (
            {"judgement": Judgement.VOID},
            0,
            "· the coordinator judged this answer: nobody",
            "RECEIPT IN ORDER (the model was not checked): ",
        ),
    ],
)
def test_what_the_coordinator_judged_is_told_and_decides(told, written, judgement, status: int, line: str, end: str):
    file = written(judged(GOOD, **judgement))
    code, out, err = told("verify", file)
    assert (code, err) == (status, "")
    assert line in out
    assert out.splitlines()[-1].startswith(end)
    assert "\x1b" not in out
    code, out, _ = told("verify", file, "--json")
    assert code == status
    shown = json.loads(out)
    assert shown["verified"] is (status == 0)
    assert shown["judgement"]["judgement"] == judgement.get("judgement", "passed")


@pytest.mark.parametrize(
    ("judgement", "check"),
    [
        ({"coordinator": KeyPair.generate()}, "coordinator_key"),
        ({"task_id": "task-2"}, "judgement"),
        ({"node_id": "n-2"}, "judgement"),
        ({"attempt": 9}, "judgement"),
        ({"fence": 9}, "judgement"),
        ({"subject": Subject.VERDICT}, "judgement"),
    ],
)
def test_another_tasks_judgement_or_a_strangers_verifies_nothing(told, written, judgement, check: str):
    code, out, _ = told("verify", written(judged(GOOD, **judgement)))
    assert code == 1
    assert f"({check})" in out
    assert "judged this answer" not in out


def test_a_judgement_that_was_altered_is_refused(told, written):
    bundle = judged(GOOD, judgement=Judgement.FAILED)
    altered = msgspec.structs.replace(bundle.judgement, payload=bundle.judgement.payload.replace("failed", "passed"))
    code, out, _ = told("verify", written(msgspec.structs.replace(bundle, judgement=altered)))
    assert code == 1
    assert "(judgement_signature)" in out


def test_a_missing_file_and_a_bad_key_are_usage_errors(told, written, tmp_path: Path):
    assert told("verify", tmp_path / "nowhere")[0] == 2
    assert told("verify", written(GOOD), "--transcript", tmp_path / "nowhere")[0] == 2
    code, _, err = told("verify", written(GOOD), "--coordinator-key", "abc")
    assert code == 2
    assert "64 hex digits" in err


def test_nothing_in_a_receipt_reaches_the_terminal_unescaped(told, written):
    evil = builders.offer("evil\x1b[2J\nVERIFIED", node_id="n\x07")
    code, out, _ = told("verify", written(bundle(evil)))
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert out.splitlines()[0].startswith("task     evil VERIFIED, attempt 1")


# --------------------------------------------------------------------------- the ledger


@pytest.fixture
def ledger(tmp_path: Path) -> tuple[str, ...]:
    """A state directory with one settled task; returns the options that point at it."""
    return settled(tmp_path, GOOD)


def settled(tmp_path: Path, bundle: wire.ReceiptBundle) -> tuple[str, ...]:
    async def fill() -> None:
        outbox = await SqliteOutbox.open(tmp_path / "state" / OUTBOX_NAME, print)
        offer = msgspec.json.decode(bundle.offer.payload, type=wire.OfferBody)
        body = msgspec.json.decode(bundle.receipt.payload, type=wire.ReceiptBody)
        row = OutboxRow(
            key=offer.key, idem_key=offer.idem_key, offer=bundle.offer, result=bundle.result, output=bundle.output
        )
        await outbox.put(row)
        await outbox.settle(row, bundle.receipt, body)
        await outbox.close()
        transcripts = FileTranscripts(tmp_path / "state" / DIRECTORY_NAME)
        await transcripts.keep(offer.key, join_leaves(KEPT.leaves), 10**10)
        await transcripts.close()

    asyncio.run(fill())
    return ("--set", f"node.state_dir={tmp_path / 'state'}")


def test_a_receipt_from_the_ledger_verifies(told, ledger, tmp_path: Path):
    code, out, _ = told("receipt", "task-1", *ledger)
    assert code == 0
    assert msgspec.json.decode(out, type=wire.ReceiptBundle) == GOOD
    assert told("receipt", "task-1", "-o", tmp_path / "out.json", *ledger)[0] == 0
    assert told("verify", tmp_path / "out.json")[0] == 0
    code, _, err = told("receipt", "task-1", "-o", tmp_path / "nowhere" / "out.json", *ledger)
    assert code == 1
    assert "No such file" in err


def test_the_transcript_behind_a_receipt_verifies_until_it_is_swept(told, ledger, tmp_path: Path):
    receipt, leaves = tmp_path / "out.json", tmp_path / "out.leaves"
    assert told("receipt", "task-1", "-o", receipt, "--transcript", leaves, *ledger)[0] == 0
    code, out, _ = told("verify", receipt, "--transcript", leaves)
    assert code == 0
    assert "commitment and transcript fit together" in out
    for segment in (tmp_path / "state" / DIRECTORY_NAME).iterdir():
        segment.unlink()
    code, out, err = told("receipt", "task-1", "--transcript", tmp_path / "gone.leaves", *ledger)
    assert (code, out) == (1, "")
    assert "no transcript of task task-1" in err
    assert not (tmp_path / "gone.leaves").exists()


def test_leaves_that_a_node_opens_verify_and_the_others_are_said_not_to_be_shown(told, ledger, tmp_path: Path):
    shown = tmp_path / "shown.json"
    assert told("receipt", "task-1", "--open", "0", "-o", shown, *ledger)[0] == 0
    code, out, _ = told("verify", shown)
    assert code == 0
    assert "commitment and leaves fit together (13 checks)" in out
    assert "1 of 2 leaves of the transcript are shown" in out
    assert "32 tokens: each is the likeliest of the claimed candidates (8 more depend on what is not shown)" in out
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 120
    told_as_json = json.loads(told("verify", shown, "--json")[1])
    assert (told_as_json["level"], told_as_json["verified"]) == (2, True)
    assert (told_as_json["opening"]["shown"], told_as_json["opening"]["leaves"]) == (1, 2)


def test_all_leaves_in_a_bundle_are_as_good_as_the_transcript(told, ledger, tmp_path: Path):
    shown = tmp_path / "shown.json"
    assert told("receipt", "task-1", "--open", "all", "-o", shown, *ledger)[0] == 0
    code, out, _ = told("verify", shown)
    assert code == 0
    assert "40 tokens: each is the likeliest of the claimed candidates" in out
    assert "are shown" not in out


@pytest.mark.parametrize("leaves", ["7", "-1", "first", "", "0,,1"])
def test_leaves_that_there_are_not_cannot_be_opened(told, ledger, leaves: str):
    code, out, err = told("receipt", "task-1", "--open", leaves, *ledger)
    assert (code, out) == (2, "")
    assert "--open" in err


def test_leaves_that_were_not_committed_to_are_refused_on_one_screen(told, written):
    other = open_leaves(transcript(tokens=41, candidates=20).leaves)
    code, out, _ = told("verify", written(msgspec.structs.replace(GOOD, opening=other)))
    assert code == 1
    assert "✗ the opened leaves are some of those that were committed to" in out
    assert "(opening)" in out
    assert "NOT VERIFIED" in out


def test_a_bundle_with_its_beacon_says_that_nobody_chose_the_leaves(told, written):
    secret = "5a" * 32
    promise = BeaconPromise(
        source=BeaconSource.EPOCH,
        round=12,
        commitment=hashlib.sha256(bytes.fromhex(secret)).hexdigest(),
        rate_micros=1_000_000,
        leaves=4,
    )
    made = bundle(
        OFFER, result={"commitment": commit(header(KEPT, OFFER, n_probs=20), KEPT)}, receipt={"beacon": promise}
    )
    beacon = Beacon(source=BeaconSource.EPOCH, round=12, value=secret)
    shown = msgspec.structs.replace(made, opening=open_leaves(KEPT.leaves))
    code, out, _ = told("verify", written(msgspec.structs.replace(shown, beacon=beacon)))
    assert code == 0
    assert "the epoch's secret that was promised (12) drew this result and its leaves 0, 1: nobody chose them" in out
    code, out, _ = told("verify", written(shown))
    assert code == 0
    assert "who chose these leaves is not shown" in out
    other = msgspec.structs.replace(beacon, value="a5" * 32)
    code, out, _ = told("verify", written(msgspec.structs.replace(shown, beacon=other)))
    assert code == 1
    assert "this is not the secret whose digest was promised (beacon)" in out


def test_receipt_and_verify_work_in_a_pipe(ledger):
    agent = [sys.executable, "-m", "agent"]
    written = subprocess.run([*agent, "receipt", "task-1", *ledger], capture_output=True, check=True).stdout
    verified = subprocess.run([*agent, "verify", "-"], input=written, capture_output=True, check=False)
    assert verified.returncode == 0
    assert "RECEIPT IN ORDER" in verified.stdout.decode()


def test_a_task_without_a_receipt_is_told_so(told, ledger, tmp_path: Path):
    for options in (ledger, ("--set", f"node.state_dir={tmp_path / 'empty'}")):
        code, _, err = told("receipt", "task-9", *options)
        assert code == 1
        assert "no receipt of task task-9" in err


def test_tasks_lists_what_was_settled(told, ledger):
    code, out, _ = told("tasks", *ledger)
    assert code == 0
    assert out.splitlines()[1].split() == ["2023-11-14", "22:13:20Z", "task-1", "1", "accepted", "1.234567", "credit"]
    code, out, _ = told("tasks", "--json", *ledger)
    assert [line["amount_micros"] for line in json.loads(out)] == [1_234_567]


def test_what_was_handed_back_is_listed_as_that(told, tmp_path: Path):
    lost = {"outcome": Outcome.HANDED_BACK, "reason": Reason.DRAIN_LIMIT, "output_sha256": "", "output_bytes": 0}
    made = bundle(output=None, result={**lost, "commitment": None}, receipt={"amount_micros": 0})
    _, out, _ = told("tasks", *settled(tmp_path, made))
    assert out.splitlines()[1].split()[3:6] == ["1", "handed", "back"]


def test_tasks_of_a_fresh_node_are_none(told, tmp_path: Path):
    empty = ("--set", f"node.state_dir={tmp_path / 'empty'}")
    assert told("tasks", *empty)[1].startswith("No task was settled yet.")
    assert json.loads(told("tasks", "--json", *empty)[1]) == []


def test_a_damaged_ledger_is_told_in_words(told, ledger, tmp_path: Path):
    (tmp_path / "state" / OUTBOX_NAME).write_bytes(b"garbage" * 1000)
    code, _, err = told("tasks", *ledger)
    assert code == 1
    assert "cannot be used" in err
