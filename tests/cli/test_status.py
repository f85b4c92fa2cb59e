"""`gpu-agent status` as a real process against the real control server."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.cli.status import screen
from agent.core.attest.messages import Attestation, Standing
from agent.core.challenges import ChallengeOutcome, Judged, ProofTotals
from agent.core.findings import Advice, Finding, Severity
from agent.core.health import HealthState
from agent.core.model import Reason, State
from agent.core.payloads import Judgement, Subject
from agent.core.release import Released
from agent.core.status import (
    AttemptStatus,
    Gate,
    GpuStatus,
    LinkStatus,
    NodeStatus,
    PoolStatus,
    SandboxStatus,
    Status,
    StorageStatus,
    Totals,
    headline,
)
from agent.edges.control import ControlServer
from tests.patience import within

STATUS = Status(
    node=NodeStatus(id="n-1", name="rig-1", state="serving", version="0.1.0", started_at=1.0, since_s=7500.0),
    link=LinkStatus(
        url="https://c.example", transport="websocket", state="open", last_answer_s=2.0, clock_offset_s=-0.5
    ),
    sandbox=SandboxStatus(backend="bubblewrap 0.11.0", usable=True, unenforced=("memory", "pids")),
    why_idle=(
        Gate(reason=Reason.PAUSED, detail="paused by the owner"),
        Gate(reason=Reason.POOL_NOT_READY, detail="main: loading\x1b[2J the model"),
    ),
    pools=(
        PoolStatus(
            name="main",
            model="gemma3",
            device="cpu",
            engine="llama-server b1",
            ready=False,
            busy=0,
            slots=2,
            detail="x",
        ),
    ),
    attempts=(
        AttemptStatus(task_id="t-1", state=State.RUNNING, pool="main", age_s=61, tokens=12, deadline_s=30.0),
        AttemptStatus(task_id="t-2", state=State.PROVING, pool="main", age_s=1, deadline_s=-3.0),
    ),
    outbox_waiting=3,
    storage=StorageStatus(
        transcripts_bytes=3 << 20,
        transcripts_quota_bytes=16 << 30,
        damage=("outbox.db was damaged:\x1b[2J kept aside",),
    ),
    proofs=ProofTotals(
        challenges={ChallengeOutcome.OPENED: 3, ChallengeOutcome.ASKED: 1},
        judgements=(
            Judged(subject=Subject.ANSWER, judgement=Judgement.PASSED, count=2),
            Judged(subject=Subject.ANSWER, judgement=Judgement.FAILED, count=1),
            Judged(subject=Subject.VERDICT, judgement=Judgement.PASSED, count=5),
        ),
        serial=8,
        stake_micros=8_000_000,
        slashed_micros=2_000_000,
    ),
    totals=Totals(done=4, failed=1, handed_back=2, earned_micros=1_500_000, currency="TEST"),
)


class Daemon:
    """A ControlApi that only has a status."""

    def status(self) -> Status:
        return STATUS

    async def drain(self) -> None:
        raise NotImplementedError

    pause = resume = reload = drain


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Path]:
    server = ControlServer(tmp_path / "run" / "c.sock", Daemon())
    await server.start()
    yield tmp_path / "run" / "c.sock"
    await server.close()


async def gpu_agent(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await within(process.communicate())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_one_screen_says_what_runs_and_every_reason_why_nothing_more_does(served: Path) -> None:
    code, out, err = await gpu_agent("status", "--socket", str(served))
    assert (code, err) == (0, "")
    for fact in [
        "rig-1 is serving, for 2 h 5 min",
        "open, https://c.example, websocket, answered 2 s ago, clock -0.500 s",
        "not enforced here: memory pids",
        "2 running, 3 waiting for a receipt, 4 done, 1 failed, 2 handed back, earned 1.500000 TEST",
        "proofs    4 challenged, 1 being answered, 2 passed, 1 failed, 5 verdicts passed; stake 8.0, 2.0 slashed",
        "transcripts 3 of 16,384 MiB",
        "Degraded:",
        "outbox.db was damaged: kept aside",
        "paused by the owner",
        "pool_not_ready",
        "0/2",
        "t-1",
        "1 min 1 s",
        "over",
    ]:
        assert fact in out
    assert "\x1b" not in out


def test_a_gpu_that_takes_nothing_says_why_and_what_to_do() -> None:
    finding = Finding(
        code="xid_79",
        severity=Severity.LOSES,
        gpu_uuid="GPU-1",
        evidence="fell off\x1b[2J the bus",
        advice=Advice.REBOOT,
        source="kernel",
    )
    sick = GpuStatus(
        uuid="GPU-1",
        name="NVIDIA H200",
        index=0,
        state=HealthState.LOST,
        findings=(finding,),
        paused=True,
        paused_s=5400.0,
    )
    watched = msgspec.structs.replace(sick, index=1, findings=(), paused=False, detail="watched for a minute")
    gates = (Gate(reason=Reason.PAUSED), Gate(reason=Reason.GPU_LOST), Gate(reason=Reason.POOL_NOT_READY))
    pools = tuple(msgspec.structs.replace(pool, gates=gates) for pool in STATUS.pools)
    shown = msgspec.structs.replace(STATUS, gpus=(sick, watched), pools=pools)
    text = "\n".join(screen(json.loads(msgspec.json.encode(shown))))
    for fact in [
        "0    NVIDIA H200  lost    GPU-1",
        "0  paused for another 1 h 30 min, or until `gpu-agent resume --gpu GPU-1`",
        "0  fell off the bus (xid_79); advice: reboot, since 19",
        "1  watched for a minute",
        "not ready: takes none: paused, gpu_lost; x",
    ]:
        assert fact in text


def test_a_pool_whose_work_nobody_can_verify_says_so() -> None:
    for determinism, told in (("U", "ready, unverifiable"), ("F-0123456789abcdef", "ready"), ("", "ready")):
        pools = tuple(
            msgspec.structs.replace(it, ready=True, detail="", determinism=determinism) for it in STATUS.pools
        )
        shown = json.loads(msgspec.json.encode(msgspec.structs.replace(STATUS, pools=pools)))
        (line,) = (line for line in screen(shown) if "llama-server b1" in line)
        assert line.endswith(f"0/2   {told}")


def test_a_pool_that_checks_others_says_so() -> None:
    pools = tuple(msgspec.structs.replace(it, ready=True, detail="", validates=True) for it in STATUS.pools)
    shown = json.loads(msgspec.json.encode(msgspec.structs.replace(STATUS, pools=pools)))
    assert any(line.endswith("ready, checks others") for line in screen(shown))


def test_where_the_page_is_is_told_while_it_is_on() -> None:
    for page, told in (("http://127.0.0.1:9411/", ["  page      http://127.0.0.1:9411/"]), ("", [])):
        shown = screen(json.loads(msgspec.json.encode(msgspec.structs.replace(STATUS, page=page))))
        assert [line for line in shown if line.startswith("  page")] == told


def test_a_reason_of_a_newer_daemon_is_shown_as_it_is() -> None:
    told = json.loads(msgspec.json.encode(STATUS))
    told["why_idle"] = [{"reason": "too_quiet", "detail": "listen"}]
    assert "  too_quiet               listen" in screen(told)


async def test_json_is_the_daemons_own_struct(served: Path) -> None:
    code, out, _ = await gpu_agent("status", "--json", "--socket", str(served))
    assert code == 0
    assert msgspec.json.decode(out, type=Status) == STATUS


async def test_without_a_daemon_it_says_how_to_start_one(tmp_path: Path) -> None:
    code, out, err = await gpu_agent("status", "--socket", str(tmp_path / "none.sock"))
    assert (code, out) == (69, "")
    assert "no daemon is running" in err
    assert "gpu-agent run" in err


async def test_the_socket_of_a_dead_daemon_counts_as_none(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    code, _, err = await gpu_agent("status", "--socket", str(tmp_path / "dead.sock"))
    assert code == 69
    assert "no daemon is running" in err


async def test_somebody_else_on_the_socket_is_told_apart(tmp_path: Path) -> None:
    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp ready\r\n")
        writer.close()

    async with await asyncio.start_unix_server(rude, tmp_path / "rude.sock"):
        code, _, err = await gpu_agent("status", "--socket", str(tmp_path / "rude.sock"))
    assert code == 69
    assert "no gpu-agent" in err


def test_an_idle_node_shows_no_empty_tables() -> None:
    quiet = msgspec.structs.replace(STATUS, pools=(), attempts=(), why_idle=())
    text = "\n".join(screen(json.loads(msgspec.json.encode(quiet))))
    assert "POOL" not in text
    assert "No new work" not in text


def test_the_headline_for_the_service_manager_says_state_slots_and_gates() -> None:
    assert headline(STATUS) == (
        "serving: 2 tasks, 2 slots; no new work: paused, pool_not_ready; "
        "degraded: what was kept on disk is damaged; 3 waiting for a receipt"
    )
    quiet = msgspec.structs.replace(
        STATUS, attempts=STATUS.attempts[:1], why_idle=(), outbox_waiting=0, storage=StorageStatus()
    )
    assert headline(quiet) == "serving: 1 task, 2 slots"
    replaced = msgspec.structs.replace(quiet, reboot="the driver was replaced by 580.95")
    assert headline(replaced) == "serving: 1 task, 2 slots; then reboot this machine: the driver was replaced by 580.95"
    drained = msgspec.structs.replace(replaced, attempts=())
    assert headline(drained) == "serving: 0 tasks, 2 slots; reboot this machine: the driver was replaced by 580.95"


def test_status_imports_no_http_framework() -> None:
    program = "import sys, agent.cli.main, agent.cli.status, agent.cli.local; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "rich", "structlog", "asyncio"} & set(loaded)


@pytest.mark.parametrize(
    ("released", "says"),
    [
        (
            Released(held_bytes=4 << 30, released_bytes=4 << 30, seconds=1.25, done=True),
            "4,096 MiB of GPU memory released in 1.2 s",
        ),
        (
            Released(held_bytes=4 << 30, released_bytes=0, seconds=3, done=False),
            "0 of 4,096 MiB of GPU memory released so far",
        ),
        (
            Released(held_bytes=4 << 30, released_bytes=0, seconds=31, done=False, detail="held by 7"),
            "released: held by 7",
        ),
        (Released(held_bytes=0, released_bytes=0, seconds=1, done=True), "not ready: x"),
    ],
)
def test_memory_that_an_engine_gave_back_for_its_owner_is_told_with_its_pool(released: Released, says: str) -> None:
    pool = msgspec.structs.replace(STATUS.pools[0], released=released)
    told = msgspec.to_builtins(msgspec.structs.replace(STATUS, pools=(pool,)))
    (line,) = [line for line in screen(told) if line.startswith("main ")]
    assert says in line


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Attestation(device="GPU-1", standing=Standing.TOO_SLOW, detail="took 9 s"), "too slow: took 9 s, 19"),
        (
            Attestation(device="GPU-1", standing=Standing.ATTESTED, gops=290_000, memory_bytes=19 << 29),
            "attested: 290 TOPS and 9.5 GiB shown, 19",
        ),
    ],
)
def test_what_the_coordinator_says_of_a_gpu_is_told_beside_it(said: Attestation, words: str) -> None:
    gpu = GpuStatus(uuid="GPU-1", name="NVIDIA H200", index=0, state=HealthState.HEALTHY, attestation=said)
    shown = msgspec.structs.replace(STATUS, gpus=(gpu,))
    assert f"  0  is it a GPU: {words}" in "\n".join(screen(json.loads(msgspec.json.encode(shown))))
