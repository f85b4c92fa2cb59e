"""`gpu-agent ask` against a real coordinator; the node is scripted, its receipts are real. It is a process of its own
where terminals, signals and restarts matter, and a thread of ours elsewhere, which starts two seconds sooner."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.cli.ask import MOST_BYTES
from agent.cli.main import run
from agent.core import wire
from agent.core.model import Reason
from agent.core.proof.receipt import verify_bundle
from agent.devnet.coordinator import Coordinator
from agent.devnet.core.records import TaskState
from agent.devnet.keys import verify
from tests import builders
from tests.devnet.node import ScriptedNode
from tests.devnet.proofs.challenged import Opener
from tests.devnet.proofs.test_served_challenges import TOKENS, Hall, HandClock, hall
from tests.patience import PATIENCE_S, until, within
from tests.scenarios.proxy import Proxy

PROGRAM = (sys.executable, "-m", "agent")


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Hall]:
    async with hall(tmp_path, stream=True) as made:
        yield made


def words(it: Hall, tmp_path: Path, *arguments: object) -> list[str]:
    """`ask` at the hall's coordinator."""
    (tmp_path / "token").write_text(it.coordinator.requester_token)
    where = ("--coordinator", it.coordinator.url, "--token-file", tmp_path / "token", "--max-tokens", TOKENS)
    return ["ask", *map(str, (*where, *arguments))]


class Asking:
    """`gpu-agent ask` in a thread."""

    def __init__(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._out = self._err = ""
        self._running = asyncio.create_task(asyncio.to_thread(run, arguments))

    async def says(self, told: str) -> None:
        """Wait until it does."""
        await until(lambda: told in self._read()[1])

    async def ended(self) -> tuple[int, str, str]:
        return await within(self._running), *self._read()

    def _read(self) -> tuple[str, str]:
        out, err = self._capsys.readouterr()
        self._out, self._err = self._out + out, self._err + err
        return self._out, self._err


async def started(it: Hall, tmp_path: Path, *arguments: object, stdout: int = asyncio.subprocess.PIPE):
    """The same as a process."""
    return await asyncio.create_subprocess_exec(
        *(*PROGRAM, *words(it, tmp_path, *arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )


@contextlib.asynccontextmanager
async def in_time(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """One that hangs ends with its test."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    async with in_time(process):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (out or b"").decode(), err.decode()


async def heard(process: asyncio.subprocess.Process, words: bytes) -> None:
    """Wait until it says so."""
    assert process.stderr is not None
    async with in_time(process):
        while words not in (said := await process.stderr.readline()):
            assert said, "it ended"


async def offered(it: Hall):
    (offer,) = await it.node.pull(wait_s=30.0)
    await it.node.start(offer)
    return offer


async def test_a_pipe_gets_the_answer_and_nothing_else_and_the_last_line_tells_of_the_receipt(
    it: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receipt = ("--receipt", tmp_path / "r.json")
    asking = Asking(words(it, tmp_path, "Name a colour.", *receipt, "--temperature", 0.5), capsys)
    offer = await offered(it)
    assert offer.task.input.messages[0].content == "Name a colour."
    assert offer.task.sampling.temperature_micros == 500_000
    await it.node.deliver(it.opener.answer(offer))
    status, out, err = await asking.ended()
    assert (status, out) == (0, "t" * TOKENS + "\n"), err
    *_, last = err.splitlines()
    assert last.startswith("receipt r-")
    assert f"checks pass, kept in {tmp_path}/r.json; 40 tokens by {it.opener.node_id} for 0.00001" in last
    assert "challenged with a probability of 100 %" in last
    kept = msgspec.json.decode((tmp_path / "r.json").read_bytes(), type=wire.ReceiptBundle)
    assert verify_bundle(kept, verify, coordinator_key=it.coordinator.public_key)
    assert run(["verify", str(tmp_path / "r.json")]) == 0


async def test_a_terminal_shows_the_answer_as_it_comes(it: Hall, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        asking = await started(it, tmp_path, "Name a colour.", stdout=theirs)
        os.close(theirs)
        offer = await offered(it)
        await it.node.chunk(offer, 0, "tt\x1b[2J")
        early = await within(asyncio.to_thread(screen.read, 100))
        assert early == b"tt"
        await it.node.deliver(it.opener.answer(offer))
        status, _, err = await ended(asking)
        assert status == 0, err
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal tells that its other end is closed
            while piece := screen.read(4096):
                shown += piece
    assert b"t" * TOKENS in shown


async def test_with_wait_it_tells_what_came_of_the_challenge_and_keeps_what_was_opened_whatever_breaks_meanwhile(
    it: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ("--wait", "--json", "--receipt", tmp_path / "r.json")
    async with Proxy(it.coordinator.url) as proxy:
        asking = Asking(words(it, tmp_path, "Name a colour.", *wanted, "--coordinator", proxy.url), capsys)
        offer = await offered(it)
        await it.node.deliver(it.opener.answer(offer))
        await asking.says("not known yet")
        proxy.cut()
        await asking.says("the coordinator does not answer")
        proxy.heal()
        it.turn(61.0)
        ack = await it.node.call(wire.Beat(), wire.BeatAck)
        await it.open(ack.challenges[0])
        status, out, _ = await asking.ended()
    told = json.loads(out)
    assert status == 0
    assert (told["text"], told["proof"]["judgement"]) == ("t" * TOKENS, "passed")
    assert told["receipt"]["verified"] is True
    kept = msgspec.json.decode((tmp_path / "r.json").read_bytes(), type=wire.ReceiptBundle)
    assert kept.opening is not None
    assert kept.judgement is not None


async def test_ctrl_c_cancels_the_task(it: Hall, tmp_path: Path) -> None:
    asking = await started(it, tmp_path, "Name a colour.")
    offer = await offered(it)
    asking.send_signal(signal.SIGINT)
    status, out, err = await ended(asking)
    assert (status, out) == (130, "")
    assert "cancelled 1 task" in err
    assert "Traceback" not in err
    assert (await it.requester.task(offer.task.task_id)).state is TaskState.CANCELLED
    told = await within(it.node.pushes.get())
    assert isinstance(told, wire.Cancel)
    assert told.reason is Reason.CANCELLED_BY_REQUESTER


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--model", "nope"), 2, f"no node offers 'nope'; there are: {builders.pool().model}"),
        (("--completion", "--system", "x"), 2, "--system is for chats"),
        (("--receipt", "/nowhere/r.json"), 2, "/nowhere/r.json cannot be written"),
        (("--token-file", "/dev/null"), 77, "holds no token"),
        (("--token-file", "/nowhere/token"), 2, "a coordinator keeps it as requester.token"),
        (("--coordinator", "http://192.0.2.1"), 2, "http:// on this machine"),
        (("--coordinator", "nonsense"), 2, "is no address of a coordinator"),
        (("--coordinator", "http://127.0.0.1:1"), 69, "http://127.0.0.1:1 cannot be reached: Connection refused"),
    ],
)
async def test_what_cannot_be_asked_is_told_with_its_own_status(
    it: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, said: str
) -> None:
    token = tmp_path / "token"
    token.write_text(it.coordinator.requester_token)
    where = ("--coordinator", it.coordinator.url, "--token-file", str(token))
    assert await asyncio.to_thread(run, ["ask", "hi", *where, *arguments]) == status
    assert said in " ".join(capsys.readouterr().err.split())


async def test_a_token_that_the_coordinator_does_not_know_is_a_matter_of_permission(
    it: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("of-another-coordinator")
    where = ("--coordinator", it.coordinator.url, "--token-file", str(tmp_path / "token"))
    assert await asyncio.to_thread(run, ["ask", "hi", *where]) == 77
    assert f"→ Is {tmp_path}/token from the coordinator at" in capsys.readouterr().err


async def test_a_question_that_nobody_takes_in_time_may_be_asked_again(
    it: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = Asking(words(it, tmp_path, "hi", "--deadline-s", 5, "--model", "sha256:" + "cd" * 32), capsys)
    await asking.says("queued")
    it.turn(6.0)
    status, _, err = await asking.ended()
    assert status == 75
    assert "no node took it: not done within its deadline of 5 s" in err


@pytest.mark.parametrize(("question", "said"), [(" ", "no question"), (os.fsdecode(b"\xff"), "is not text")])
def test_what_is_no_question_is_a_usage_fault(capsys: pytest.CaptureFixture[str], question: str, said: str) -> None:
    assert run(["ask", question, "--coordinator", "http://127.0.0.1:1", "--token-file", "token"]) == 2
    assert said in capsys.readouterr().err


def test_a_question_that_is_too_long_is_not_cut_in_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a" * (MOST_BYTES + 1))))
    assert run(["ask", "--coordinator", "http://127.0.0.1:1", "--token-file", "token"]) == 2
    assert "more than 1,048,576 bytes" in capsys.readouterr().err


async def test_an_answer_outlives_a_restart_of_the_coordinator_and_the_outage_is_told(tmp_path: Path) -> None:
    async with hall(tmp_path) as before:
        asking = await started(before, tmp_path, "hi", "--model", builders.MODEL)
        await heard(asking, b"queued")
    await heard(asking, b"the coordinator does not answer")
    port = int(before.coordinator.url.rpartition(":")[2])
    async with (
        Coordinator(tmp_path, port=port, clock=HandClock()) as again,
        ScriptedNode(again.url, again.public_key, seed=2) as node,
    ):
        node.actor = opener = Opener(2)
        await node.join(again.enrol_token())
        (offer,) = await node.pull(wait_s=30.0)
        await node.start(offer)
        await node.deliver(opener.answer(offer))
        status, out, err = await ended(asking)
    assert (status, out) == (0, "t" * TOKENS + "\n"), err


async def test_who_leaves_while_the_coordinator_is_away_is_told_that_the_task_may_go_on(tmp_path: Path) -> None:
    async with hall(tmp_path) as before:
        asking = await started(before, tmp_path, "hi", "--model", builders.MODEL)
        await heard(asking, b"queued")
    await heard(asking, b"the coordinator does not answer")
    asking.send_signal(signal.SIGINT)
    status, _, err = await ended(asking)
    assert status == 130
    assert "1 task may go on: the coordinator was not told" in err
