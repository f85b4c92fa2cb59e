"""What keeps a command from starting: one clear line with what to do, a status, and nothing touched."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S, within
from tests.scenarios.engine import HeldEngine
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import ROOT, World, external


def command(*words: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "agent", *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )


def one_clear_fault(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """One error, one remedy, no traceback."""
    assert done.returncode == status, done
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "→ " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout, done
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_coordinator_whose_port_is_taken_names_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("coordinator", "--state-dir", str(tmp_path / "c"), "--port", str(port))
    one_clear_fault(done, 69, f"port {port}", "is taken", "another port")


def test_who_may_not_do_it_is_told_so_and_not_to_try_again(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o500)
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root writes into every directory, and no setpriv (util-linux) is here to take that from it")
    prefix = ("setpriv", "--bounding-set", "-dac_override", "--") if os.geteuid() == 0 else ()
    done = command("coordinator", "--state-dir", str(ours / "c"), prefix=prefix)
    one_clear_fault(done, 77, "cannot make", "Permission denied", "another state directory")
    runtime = ("env", f"RUNTIME_DIRECTORY={ours / 'power'}")
    one_clear_fault(command("power", "give-back", prefix=(*prefix, *runtime)), 77, "cannot be made", "It takes root")


def test_a_configuration_that_cannot_be_read_is_named_by_every_verb_that_needs_it(tmp_path: Path) -> None:
    nothing, folder, no_text = tmp_path / "nothing.toml", tmp_path / "folder.toml", tmp_path / "bytes.toml"
    folder.mkdir()
    no_text.write_bytes(b"\xff\xfe[node]")
    for file in (nothing, folder, no_text):
        for verb in (("run",), ("config", "check"), ("config", "show"), ("gpus",), ("enrol",)):
            one_clear_fault(command(*verb, "--config", str(file)), 78, str(file))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_configuration_of_somebody_else_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.touch(mode=0)
    one_clear_fault(command("run", "--config", str(file)), 78, str(file), "Permission denied")


def test_five_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[node]\nnmae = "x"\ndrain_limit_s = "long"\n[coordinator]\nurl = "http://example.com"\n'
        'transport = "pigeon"\n[logs]\nlevel = "loud"\n'
    )
    done = command("config", "check", "--config", str(file))
    one_clear_fault(done, 78, "5 faults", 'did you mean "name"?')
    for line in (2, 3, 5, 6, 8):
        assert f"{file.name}:{line}: " in done.stderr


async def test_a_control_socket_that_is_in_the_way_is_named_and_left_alone(world: World, engine: HeldEngine) -> None:
    agent = await world.agent(external(engine.url), start=False)
    place = agent.runtime / "control.sock"
    place.write_text("somebody's notes")
    status, told = await agent.verb("run")
    assert (status, "is in the way" in told, "control.socket" in told) == (1, True, True), told
    assert place.read_text() == "somebody's notes"
    place.unlink()
    await agent.start()
    await world.ready(agent)


async def test_a_token_that_is_spent_or_spoilt_is_told_with_what_to_do(world: World, engine: HeldEngine) -> None:
    first = await world.agent(external(engine.url))
    await world.ready(first)
    second = await world.agent(external(engine.url), name="second", start=False)
    (second.home / "token").write_text((first.home / "token").read_text())
    status, told = await second.verb("run")
    assert (status != 0, "token" in told, "Traceback" in told) == (True, True, False), told
    assert "→" in told
    (second.home / "token").write_text("not a token")
    status, told = await second.verb("run")
    assert (status, "not a token" in told, "→" in told) == (77, False, True), told


async def test_nothing_secret_is_logged_or_shown(world: World, engine: HeldEngine) -> None:
    agent = await world.agent(external(engine.url))
    await world.ready(agent)
    agent.config.write_text(agent.config.read_text() + "# touched\n")
    agent.signal(signal.SIGHUP)
    await agent.saw("config.reloaded")
    shown = [(await agent.verb(*verb))[1] for verb in (("status", "--json"), ("config", "show"), ("doctor",))]
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    token = (agent.home / "token").read_text().strip()
    key = "".join((agent.home / "state/node.key").read_text().splitlines()[1:-1])
    said = json.dumps(agent.lines) + "".join(agent.noise) + "".join(shown)
    for secret in (token, token.split(".")[1], key, "PRIVATE KEY", "Bearer "):
        assert secret not in said


async def test_every_state_of_the_node_has_its_screen(world: World, engine: HeldEngine) -> None:
    agent = await world.agent(external(engine.url))
    node = await world.ready(agent)
    assert node.fingerprint is not None
    assert "node is serving, for" in await screen(agent.verb("status"))
    for act, state, why in (("pause", "paused", "paused"), ("drain", "drained", "draining"), ("resume", "serving", "")):
        await asyncio.to_thread(post, agent.runtime / "control.sock", act)
        await agent.saw("node.moved", after=state)
        shown = await screen(agent.verb("status"))
        assert f"node is {state}, for" in shown, shown
        assert f"No new work, because: {why}" in shown or not why, shown
    engine.open.clear()
    task = await world.ask(node.fingerprint.pools[0].model_digest)
    await within(engine.asked.acquire())
    agent.signal(signal.SIGTERM)
    await agent.saw("node.moved", after="draining")
    shown = await screen(agent.verb("status"))
    assert ("node is draining, for" in shown, task in shown) == (True, True), shown
    engine.open.set()
    assert await agent.ended() == 0
    status, told = await agent.verb("status")
    assert (status, "no daemon is running" in told, "→ Start it" in told) == (69, True, True)


async def test_while_it_waits_for_the_coordinator_the_status_says_so_and_a_reload_is_not_forgotten(
    world: World, engine: HeldEngine
) -> None:
    agent = await world.agent(external(engine.url), start=False)
    async with Proxy(world.url) as proxy:
        proxy.cut()
        await agent.start("--set", f"coordinator.url={proxy.url}")
        line = await agent.saw("enrol.failed")
        assert "Check coordinator.url, the network" in line["detail"]
        status, told = await agent.verb("status")
        assert (status, "still starting" in told, "→ Its log says" in told) == (1, True, True), told
        day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(datetime.now(UTC).weekday() + 3) % 7]
        with agent.config.open("a") as config:
            config.write(f'[owner]\ntime_zone = "UTC"\nschedule = ["{day} 0:00-12:00"]\n')
        agent.signal(signal.SIGHUP)
        await agent.saw("config.reloaded")
        proxy.heal()
        assert (await agent.saw("owner.first"))["reason"] == "outside_schedule"
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0


async def screen(asked: object) -> str:
    status, text = await asked  # type: ignore[misc]
    assert status == 0, text
    return " ".join(text.split())


def post(path: Path, verb: str) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        line.sendall(f"POST /v1/{verb} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        assert b" 202 " in line.recv(4096)


async def test_who_dies_in_a_librarys_own_code_says_where(world: World, engine: HeldEngine) -> None:
    agent = await world.agent(external(engine.url))
    await agent.saw("agent.starting")
    agent.signal(signal.SIGBUS)
    assert await agent.ended() == -signal.SIGBUS
    assert any("Bus error" in line for line in agent.noise)
    assert any("agent/cli/run.py" in line for line in agent.noise)
