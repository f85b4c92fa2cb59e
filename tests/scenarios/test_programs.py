"""Programs that tasks bring along: real bundles in real sandboxes, through node and coordinator, as a user has them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import msgspec
import psutil
import pytest

from agent.core.archive import members
from agent.core.model import Bundle, ExecInput, ExecLimits, Reason
from agent.core.program_output import ProgramOutput
from agent.core.proof.files import FileLeaf
from agent.core.proof.program import Ended
from agent.core.proof.receipt import verify_bundle
from agent.core.proof.transcript import TranscriptBuilder
from agent.core.wire import ResultBody
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Rules
from agent.devnet.requester import Requester
from agent.devnet.streams import ChunkSeen
from agent.devnet.views import TaskView
from agent.edges.programs.bundling import bundle
from agent.edges.signing import KeyPair, verify
from tests.patience import until
from tests.sandboxes import require_sandbox
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import ROOT, AgentProcess, World

MANDELBROT = ROOT / "docs" / "examples" / "mandelbrot"
PYTHON = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(path).exists()), "")
PUBLISHER = KeyPair.generate()


def programs(*keys: str, **settings: object) -> str:
    """Configuration of a node that runs programs of these publishers."""
    more = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    return f"[exec]\nenabled = true\ntrusted_keys = {json.dumps(keys or [PUBLISHER.public_key])}\n{more}"


@pytest.fixture
async def node(world: World) -> AgentProcess:
    await asyncio.to_thread(require_sandbox)
    agent = await world.agent(programs(memory_mib=512))
    await world.ready(agent)
    return agent


def packed(files: dict[str, str], keys: KeyPair = PUBLISHER) -> tuple[bytes, Bundle]:
    """A bundle of executable files."""
    with tempfile.TemporaryDirectory() as place, io.BytesIO() as into:
        for name, content in files.items():
            (Path(place) / name).write_text(content)
            (Path(place) / name).chmod(0o755)
        made = bundle(Path(place), into, keys)
        return into.getvalue(), made


async def start(
    world: World, script: str, *, keys: KeyPair = PUBLISHER, inputs: dict[str, bytes] | None = None, **more
):
    """Queue a shell script as a program."""
    raw, signed = packed({"run": f"#!/bin/sh\n{script}\n"}, keys)
    await world.requester.upload(raw)
    named = {name: await world.requester.upload(content) for name, content in (inputs or {}).items()}
    return await world.requester.run(ExecInput(bundle=signed, argv=("/bundle/run",), inputs=named, **more))


async def output(world: World, view: TaskView) -> ProgramOutput:
    assert view.state is TaskState.SETTLED, view
    return msgspec.json.decode(await world.requester.output(view.task_id), type=ProgramOutput)


async def left(world: World, view: TaskView) -> dict[str, bytes]:
    raw = await world.requester.artifact(view.task_id)
    found = members(lambda offset, count: raw[offset : offset + count], len(raw))
    return {entry.path.decode(): raw[offset : offset + entry.size] for entry, offset in found}


def result_of(receipt) -> ResultBody:
    return msgspec.json.decode(receipt.result.payload, type=ResultBody)


async def test_frames_are_rendered_streamed_fetched_paid_and_proven(
    world: World, coordinator: Coordinator, tmp_path: Path
) -> None:
    """All of it by the commands of docs/exec.md."""
    if not PYTHON:
        pytest.skip("this machine has no python3 below /usr, which the example needs in its sandbox")
    await asyncio.to_thread(require_sandbox)

    async def verb(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
        )
        told, _ = await process.communicate()
        return process.returncode or 0, told.decode()

    frames, key = tmp_path / "frames.bundle", tmp_path / "publisher.key"
    status, told = await verb("bundle", str(MANDELBROT), "-o", str(frames), "--key", str(key), "--new-key")
    assert status == 0, told
    publisher = KeyPair.load(key).public_key
    assert f"publisher  {publisher}" in told

    node = await world.agent(programs(publisher))
    await world.ready(node)
    token = tmp_path / "coordinator" / "requester.token"
    out, archive, receipt = tmp_path / "out", tmp_path / "frames.tar", tmp_path / "receipt.json"
    where = ("--coordinator", world.url, "--token-file", str(token), "--deadline-s", "60")
    keep = ("-o", str(out), "--archive", str(archive), "--receipt", str(receipt), "--want", "*.png")
    render = (PYTHON, "/bundle/render.py", "3", "5", "40", "25")
    status, told = await verb("submit", str(frames), *where, *keep, "--", *render)
    assert status == 0, f"{told}\n{node.story()}"
    assert [line for line in told.splitlines() if line.startswith("frame ")] == ["frame 3", "frame 4", "frame 5"]
    assert "exited: exit status 0" in told
    assert "on node n-" in told
    pictures = sorted((out / "out").iterdir())
    assert [it.name for it in pictures] == ["frame-0003.png", "frame-0004.png", "frame-0005.png"]
    for picture in pictures:
        raw = picture.read_bytes()
        assert struct.unpack(">II", raw[16:24]) == (40, 25)
        [size] = struct.unpack(">I", raw[33:37])
        assert len(zlib.decompress(raw[41 : 41 + size])) == 25 * (1 + 3 * 40)
    assert (out / "stdout").read_text() == "frame 3\nframe 4\nframe 5\n"

    pinned = ("--coordinator-key", coordinator.public_key)
    status, told = await verb("verify", str(receipt), *pinned, "--artifact", str(archive))
    assert status == 0, told
    assert f"program  {PYTHON} /bundle/render.py 3 5 40 25" in told
    assert "RECEIPT IN ORDER" in told
    archive.write_bytes(archive.read_bytes().replace(b"frame 4", b"frame 9"))
    status, told = await verb("verify", str(receipt), *pinned, "--artifact", str(archive))
    assert status == 1, told

    each = ("-o", str(tmp_path / "each" / "{}"), "--array", "1-3", "--env", "NUMBER={}")
    script = 'echo "frame $NUMBER"; [ $1 != 2 ] || exit 4'
    status, told = await verb("submit", str(frames), *where, *each, "--", "/bin/sh", "-c", script, "sh", "{}")
    assert status == 4, told
    assert {"1: frame 1", "2: frame 2", "3: frame 3", "2: exited: exit status 4"} <= {
        line.partition(" after")[0] for line in told.splitlines()
    }
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["1", "2", "3"]

    line = (await world.requester.ledger()).lines[0]
    assert line.amount_micros > 0
    assert line.node_id
    status, told = await node.verb("tasks")
    assert line.task_id in told
    assert "accepted" in told


async def test_the_archive_alone_gives_the_root_that_the_node_committed_to(
    world: World, node: AgentProcess, coordinator: Coordinator
) -> None:
    task = await start(world, "echo hello; echo oops >&2; cat /in/a.txt >copy; mkdir void", inputs={"a.txt": b"input"})
    view = await world.requester.result(task)
    told = await output(world, view)
    assert (told.exit.kind, told.exit.code) == (Ended.EXITED, 0)
    assert (told.stdout, told.stderr) == ("hello\n", "oops\n")
    receipt = await world.requester.receipt(task)
    verify_bundle(receipt, verify, coordinator_key=coordinator.public_key)
    raw = await world.requester.artifact(task)
    assert result_of(receipt).artifact == told.archive == view.artifact
    assert await left(world, view) == {
        "out/copy": b"input",
        "out/void": b"",
        "stderr": b"oops\n",
        "stdout": b"hello\n",
    }
    builder = TranscriptBuilder(0)
    for entry, offset in members(lambda offset, count: raw[offset : offset + count], len(raw)):
        content = raw[offset : offset + entry.size]
        builder.add_files([FileLeaf(entry.path, entry.size, sha256(content), entry.executable, entry.directory)])
    assert builder.finish().root == result_of(receipt).commitment.root == view.commitment_root


def sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


async def test_stdout_is_seen_while_the_program_runs_and_a_cancel_ends_it(world: World, node: AgentProcess) -> None:
    seconds = f"1000.{os.getpid()}"  # nobody else's
    task = await start(world, f"echo begun; sleep {seconds}")
    async for event in world.requester.events(task):
        if isinstance(event, ChunkSeen):
            assert event.text == "begun\n"
            break
    await world.requester.cancel(task)
    await node.saw("attempt.closed", outcome="cancelled")
    await until(lambda: all(seconds not in command for command in commands()))
    assert list((node.home / "state" / "artifacts").iterdir()) == []


def commands() -> list[list[str]]:
    """Of all processes of the machine."""
    return [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]


def end_its_sleep(node: AgentProcess) -> None:
    """What its program waits for."""
    for process in psutil.Process(node.process.pid).children(recursive=True):
        if process.name() == "sleep":
            process.kill()


ENDINGS = [
    ("exit 3", Ended.EXITED, 3, Reason.PROGRAM_FAILED),
    ("exec /bundle/missing", Ended.EXITED, 127, Reason.PROGRAM_FAILED),
    ("kill -SEGV $$", Ended.SIGNALLED, 11, Reason.PROGRAM_FAILED),
    ("exec tail /dev/zero", Ended.OUT_OF_MEMORY, None, Reason.OUT_OF_MEMORY),
    ("exec sleep 100", Ended.WALL_TIME, None, Reason.WALL_TIME),
    ("exec yes", Ended.OUTPUT_TOO_LARGE, None, Reason.OUTPUT_TOO_LARGE),
    ("exec head -c 4M /dev/zero >/out/big", Ended.DISK_FULL, None, Reason.DISK_FULL),
    ("truncate -s 1M sparse1; truncate -s 1M sparse2", Ended.EXITED, 0, Reason.OUTPUT_TOO_LARGE),
]


async def test_however_a_program_ends_its_requester_is_told_and_the_node_goes_on(
    world: World, node: AgentProcess
) -> None:
    """More ends than a breaker takes failures: none of them is the node's."""
    most = ExecLimits(memory_bytes=64 << 20, wall_s=60, tmp_bytes=1 << 20, out_bytes=1 << 20, stdout_bytes=100_000)
    for script, kind, code, reason in ENDINGS:
        limits = msgspec.structs.replace(most, wall_s=1) if kind is Ended.WALL_TIME else most
        task = await start(world, f"echo made >early; {script}", limits=limits)
        view = await world.requester.result(task)
        told = await output(world, view)
        assert told.exit.kind is kind, (script, told)
        assert code is None or told.exit.code == code, (script, told)
        assert result_of(await world.requester.receipt(task)).reason is reason, script
        files = await left(world, view)
        assert ("out/early" in files) == (not told.overfull), (script, told)
    await node.saw("attempt.closed", len(ENDINGS), outcome="succeeded")
    assert node.events("breaker.moved") == []


async def test_a_publisher_that_the_owner_does_not_know_gets_nothing_run(world: World, node: AgentProcess) -> None:
    """The coordinator does not even offer it; the node that is offered one says no (tests/edges/programs)."""
    stranger = await start(world, "echo stranger", keys=KeyPair.generate())
    known = await start(world, "echo known")
    assert (await output(world, await world.requester.result(known))).stdout == "known\n"
    assert (await world.requester.task(stranger)).state is TaskState.QUEUED
    await node.saw("attempt.closed", task=known)
    assert [line["task"] for line in node.events("attempt.closed")] == [known]


async def test_what_programs_left_is_gone_once_delivered_and_what_nobody_owes_is_gone_after_a_start(
    world: World, node: AgentProcess
) -> None:
    state = node.home / "state" / "artifacts"
    task = await start(world, "head -c 300000 /dev/zero >big; echo done")
    await node.saw("result.receipted", task=task)
    assert list(state.iterdir()) == []
    (state / f"orphan-1-1.{'ab' * 32}").write_bytes(b"of an attempt that nobody knows")
    (state / ".part-half").write_bytes(b"written when the power went")
    await node.kill()
    await node.start()
    await node.saw("agent.ready", 2)
    assert list(state.iterdir()) == []


async def test_what_a_program_left_outlives_a_kill_of_the_node_that_could_not_deliver_it(tmp_path: Path) -> None:
    await asyncio.to_thread(require_sandbox)
    async with contextlib.AsyncExitStack() as stack:
        patient = Options(rules=Rules(beat_s=1.0, lease_s=90.0))
        coordinator = await stack.enter_async_context(Coordinator(tmp_path / "coordinator", options=patient))
        proxy = await stack.enter_async_context(Proxy(coordinator.url))
        requester = await stack.enter_async_context(Requester(coordinator.url, coordinator.requester_token))
        world = World(proxy.url, requester, coordinator.enrol_token, tmp_path)
        stack.push_async_callback(world.close)
        node = await world.agent(programs())
        await world.ready(node)
        task = await start(world, "echo begun; sleep 600; echo kept >result")
        async for event in requester.events(task):
            if isinstance(event, ChunkSeen):
                break
        proxy.cut()
        end_its_sleep(node)
        await node.saw("attempt.moved", task=task, state="reporting")
        await node.saw("result.undelivered", task=task)
        await node.kill()
        assert len(list((node.home / "state" / "artifacts").iterdir())) == 1
        proxy.heal()
        await node.start()
        view = await requester.result(task)
        assert (view.state, view.attempt) == (TaskState.SETTLED, 1), view
        assert (await left(world, view))["out/result"] == b"kept\n"
        await node.saw("result.receipted", task=task)
        assert list((node.home / "state" / "artifacts").iterdir()) == []
