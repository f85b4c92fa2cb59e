"""The real agent as the real unit under a real systemd, with a real coordinator and a real engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.systemd.box import Box, systemd_version

pytestmark = pytest.mark.slow

UNIT, COORDINATOR = "gpu-agent.service", "coordinator.service"
VENV = "/opt/gpu-agent/venv/bin"
CREDENTIAL = "/etc/credstore/gpu-agent.enrol.token"
CONFIG = """
[coordinator]
url = "http://127.0.0.1:7070"
enrol_token_file = "/run/credentials/gpu-agent.service/enrol.token"
[gpu]
enabled = false
[[models]]
name = "tiny"
path = "/opt/models/tiny.gguf"
[[pools]]
name = "main"
model = "tiny"
device = "cpu"
threads = 1
kinds = ["completion"]
"""
COORDINATOR_UNIT = f"""[Service]
ExecStart={VENV}/gpu-agent coordinator --state-dir /var/lib/coordinator --port 7070 --token-file {CREDENTIAL} --beat-s 1
"""
QUICK = "[Service]\nWatchdogSec=6\nRestartSec=100ms\nStartLimitBurst=100\n"
if systemd_version() < 252:  # it does not look into /etc/credstore by itself
    QUICK += f"LoadCredential=enrol.token:{CREDENTIAL}\n"


@pytest.fixture(scope="module")
def service(box: Box) -> Iterator[Box]:
    box.write("/etc/gpu-agent/config.toml", CONFIG, "0644")
    box.write(f"/etc/systemd/system/{COORDINATOR}", COORDINATOR_UNIT)
    box.write(f"/etc/systemd/system/{UNIT}.d/quick.conf", QUICK)
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", COORDINATOR)
    box.eventually(lambda: box.run("test", "-s", CREDENTIAL, check=False).returncode == 0, COORDINATOR)
    yield box
    box.run("systemctl", "stop", UNIT, COORDINATOR, check=False)
    box.run("rm", "-r", f"/etc/systemd/system/{UNIT}.d", f"/etc/systemd/system/{COORDINATOR}", "/var/lib/gpu-agent")
    box.run("systemctl", "daemon-reload")


@pytest.fixture
def running(service: Box) -> Box:
    service.run("systemctl", "start", COORDINATOR)
    started = service.run("systemctl", "start", UNIT, check=False)
    assert started.returncode == 0, started.stderr + service.story(UNIT)
    return service


def main_pid(box: Box) -> str:
    return box.show(UNIT, "MainPID")["MainPID"]


def status(box: Box) -> dict[str, Any]:
    asked = box.run(f"{VENV}/gpu-agent", "status", "--json", check=False)
    return json.loads(asked.stdout) if asked.returncode == 0 else {}


def until(box: Box, fact: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the agent's own status is so."""
    seen: dict[str, Any] = {}

    def asked() -> bool:
        seen.update(status(box))
        return bool(seen) and fact(seen)

    box.eventually(asked, UNIT)
    return seen


def reasons(told: dict[str, Any]) -> set[str]:
    return {gate["reason"] for gate in told["why_idle"]}


def serving(told: dict[str, Any]) -> bool:
    return reasons(told) <= {"no_demand"} and told["pools"][0]["ready"]


def asking(box: Box, *arguments: str) -> str:
    return box.run(
        "sh", "-c", f"cd /opt/source && {VENV}/python -m tests.systemd.asking {' '.join(arguments)}"
    ).stdout.strip()


def restarted(box: Box, old_pid: str) -> None:
    box.until(
        UNIT,
        lambda now: now["MainPID"] not in ("0", old_pid) and now["ActiveState"] == "active",
        "MainPID",
        "ActiveState",
    )


def test_a_first_start_on_a_full_disk_is_a_state_and_no_crash_loop(service: Box) -> None:
    state, kept = "/var/lib/gpu-agent", "/var/lib/kept"
    service.run("install", "-d", "-m", "0700", "-o", "gpu-agent", "-g", "gpu-agent", state, kept)
    service.run("mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", state)
    service.run("chown", "gpu-agent:gpu-agent", state)
    service.run("sh", "-c", f"head -c 9000000 /dev/zero > {state}/filler", check=False)
    service.run("systemctl", "start", "--no-block", UNIT)
    service.until(
        UNIT,
        lambda now: now["ActiveState"] == "activating" and now["StatusText"].startswith("waiting: the node key"),
        "ActiveState",
        "StatusText",
    )
    service.run("rm", f"{state}/filler")
    service.until(UNIT, lambda now: now["ActiveState"] == "active", "ActiveState")
    assert service.show(UNIT, "NRestarts") == {"NRestarts": "0"}
    service.run("systemctl", "stop", UNIT)
    service.run("sh", "-c", f"cp -a {state}/. {kept} && umount {state} && cp -a {kept}/. {state} && rm -r {kept}")


def test_it_enrols_with_the_credential_and_serves(running: Box) -> None:
    told = until(running, serving)
    assert told["node"]["id"]
    assert told["link"]["state"] == "open"
    assert running.show(UNIT, "ActiveState") == {"ActiveState": "active"}
    running.until(UNIT, lambda now: now["StatusText"].startswith("serving: 0 tasks, 1 slot"), "StatusText")


def test_sigterm_in_the_middle_of_a_task_finishes_it_and_loses_none(running: Box) -> None:
    until(running, serving)
    tasks = asking(running, "submit", "3").split()
    until(running, lambda told: bool(told["attempts"]))
    running.run("systemctl", "stop", UNIT)
    assert running.show(UNIT, "Result", "ExecMainStatus", "ActiveState") == {
        "Result": "success",
        "ExecMainStatus": "0",
        "ActiveState": "inactive",
    }
    assert running.run("test", "-e", "/run/gpu-agent", check=False).returncode == 1, "systemd took the sockets away"
    states = asking(running, "states", *tasks).split()
    assert "settled" in states, "what ran was finished"
    assert set(states) <= {"settled", "queued"}, "what did not run was given back"
    running.run("systemctl", "start", UNIT)
    running.eventually(lambda: set(asking(running, "states", *tasks).split()) == {"settled"}, UNIT)


@pytest.mark.parametrize("how", ["-KILL", "-STOP"])
def test_a_killed_or_stopped_agent_is_replaced_and_serves_again(running: Box, how: str) -> None:
    node = until(running, serving)["node"]["id"]
    old = main_pid(running)
    running.run("kill", how, old)
    restarted(running, old)
    assert until(running, serving)["node"]["id"] == node
    engines = running.run("pgrep", "-c", "-x", "llama-server", check=False).stdout.strip()
    assert engines == "1", "the dead agent's engine is gone"


def test_it_starts_without_the_coordinator_and_finds_it_when_it_comes(running: Box) -> None:
    until(running, serving)
    running.run("systemctl", "stop", UNIT, COORDINATOR)
    running.run("systemctl", "start", UNIT)
    old = main_pid(running)
    until(running, lambda told: "coordinator_unreachable" in reasons(told))
    running.run("systemctl", "start", COORDINATOR)
    until(running, serving)
    assert main_pid(running) == old, "nothing was restarted"


def test_a_reload_keeps_the_process_and_a_faulty_file_keeps_the_settings(running: Box) -> None:
    until(running, serving)
    old = main_pid(running)
    running.write("/etc/gpu-agent/config.toml", CONFIG + "slots = 'many'\n", "0644")
    try:
        running.run("systemctl", "reload", UNIT)
        running.until(UNIT, lambda now: now["ActiveState"] == "active", "ActiveState")
        running.eventually(lambda: "config.kept" in running.journal("-u", UNIT), UNIT)
    finally:
        running.write("/etc/gpu-agent/config.toml", CONFIG, "0644")
    assert main_pid(running) == old
    assert serving(status(running))


def test_what_it_keeps_is_private(running: Box) -> None:
    until(running, serving)
    for place in ("/var/lib/gpu-agent", "/var/cache/gpu-agent", "/run/gpu-agent"):
        assert running.run("stat", "-c", "%U %a", place).stdout.split() == ["gpu-agent", "700"]
    kept = running.run("find", "/var/lib/gpu-agent", "/run/gpu-agent", "-type", "f", "-perm", "/077").stdout
    assert kept == ""


def test_an_engine_has_a_place_of_its_own_for_its_socket(running: Box) -> None:
    until(running, serving)
    place = "/run/gpu-agent/engines"
    mounts = running.run("cat", f"/proc/{main_pid(running)}/mountinfo").stdout.splitlines()
    [mounted] = [line for line in mounts if f" {place} " in line]
    assert "size=16384k" in mounted
    assert running.run("ls", place).stdout == "", "nothing of it lies in the /run that all services share"
    assert running.run("ls", f"/proc/{main_pid(running)}/root{place}").stdout.split() == ["main"]


@pytest.mark.parametrize(("user", "answer"), [("gpu-agent", 0), ("nobody", 77)])
def test_only_its_own_user_and_root_may_ask_it(running: Box, user: str, answer: int) -> None:
    ask = ["runuser", "-u", user, "--", f"{VENV}/gpu-agent", "status", "--socket", "/run/gpu-agent/control.sock"]
    asked = running.run(*ask, check=False)
    assert asked.returncode == answer, asked.stderr


def test_it_waits_for_the_coordinator_to_enrol_with_and_can_be_stopped_meanwhile(service: Box) -> None:
    service.run("systemctl", "stop", UNIT, COORDINATOR)
    service.run("mv", "/var/lib/gpu-agent", "/var/lib/gpu-agent.kept")
    try:
        service.run("systemctl", "start", "--no-block", UNIT)
        service.eventually(lambda: "enrol.failed" in service.journal("-u", UNIT), UNIT)
        assert service.show(UNIT, "ActiveState") == {"ActiveState": "activating"}
        assert "still starting" in service.run(f"{VENV}/gpu-agent", "status", check=False).stderr
        service.run("timeout", "10", "systemctl", "stop", UNIT)
        assert service.show(UNIT, "ActiveState", "ExecMainStatus") == {"ActiveState": "inactive", "ExecMainStatus": "0"}
    finally:
        service.run("rm", "-rf", "/var/lib/gpu-agent")
        service.run("mv", "/var/lib/gpu-agent.kept", "/var/lib/gpu-agent")


def test_a_node_without_enrolment_waits_for_a_person(service: Box) -> None:
    service.run("systemctl", "stop", UNIT)
    service.run("mv", "/var/lib/gpu-agent", "/var/lib/gpu-agent.kept")
    service.write("/etc/gpu-agent/config.toml", "", "0644")
    try:
        assert service.run("systemctl", "start", UNIT, check=False).returncode != 0
        service.until(UNIT, lambda now: now["ActiveState"] == "failed", "ActiveState")
        assert service.show(UNIT, "ExecMainStatus", "NRestarts") == {"ExecMainStatus": "77", "NRestarts": "0"}
        assert "enrol" in service.journal("-u", UNIT)
    finally:
        service.run("rm", "-rf", "/var/lib/gpu-agent")
        service.run("mv", "/var/lib/gpu-agent.kept", "/var/lib/gpu-agent")
        service.write("/etc/gpu-agent/config.toml", CONFIG, "0644")
