"""The unit's promises, kept by a stand-in service under a real systemd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.box import Box, systemd_version

pytestmark = pytest.mark.slow

UNIT = "gpu-agent.service"
UNIT_FILE = Path(__file__).parents[2] / "systemd" / UNIT
PYTHON = "/opt/gpu-agent/venv/bin/python"
STAND_IN = f"""[Service]
ExecStart=
ExecStart={PYTHON} -m tests.systemd.stand_in
WatchdogSec=3
RestartSec=100ms
StartLimitBurst=100
"""


@pytest.fixture(scope="module")
def unit(box: Box) -> Iterator[Box]:
    box.write(f"/etc/systemd/system/{UNIT}.d/stand-in.conf", STAND_IN)
    box.write("/etc/credstore/gpu-agent.node.key", "a secret", "0600")
    box.run("systemctl", "daemon-reload")
    yield box
    box.run("systemctl", "stop", UNIT, check=False)
    box.run("rm", "-r", f"/etc/systemd/system/{UNIT}.d", "/etc/credstore/gpu-agent.node.key")
    box.run("systemctl", "daemon-reload")


@pytest.fixture
def running(unit: Box) -> Box:
    started = unit.run("systemctl", "start", UNIT, check=False)
    assert started.returncode == 0, started.stderr + unit.story(UNIT)
    return unit


def main_pid(box: Box) -> str:
    return box.show(UNIT, "MainPID")["MainPID"]


def restarted(box: Box, old_pid: str) -> None:
    box.until(
        UNIT,
        lambda now: now["MainPID"] not in ("0", old_pid) and now["ActiveState"] == "active",
        "MainPID",
        "ActiveState",
    )


def test_start_returns_when_ready_was_said_and_the_status_line_shows(running: Box) -> None:
    shown = running.show(UNIT, "ActiveState", "StatusText", "MainPID")
    assert shown["ActiveState"] == "active"
    assert shown["StatusText"] == f"standing in, pid {shown['MainPID']}" or shown["StatusText"] == "reloaded"


def test_a_killed_service_is_started_again(running: Box) -> None:
    old = main_pid(running)
    running.run("kill", "-9", old)
    restarted(running, old)


@pytest.mark.parametrize("how", ["-STOP", "-USR1"], ids=["a process that is stopped", "loops that stand still"])
def test_the_watchdog_replaces(running: Box, how: str) -> None:
    old, told = main_pid(running), running.journal("_PID=1").count("Watchdog timeout")
    running.run("kill", how, old)
    restarted(running, old)
    assert running.journal("_PID=1").count("Watchdog timeout") == told + 1


def test_a_reload_is_told_from_a_restart(running: Box) -> None:
    old = main_pid(running)
    running.run("systemctl", "reload", UNIT)
    running.until(UNIT, lambda now: now["StatusText"] == "reloaded", "StatusText")
    assert main_pid(running) == old


def test_stop_ends_with_success(unit: Box) -> None:
    unit.run("systemctl", "start", UNIT)
    unit.run("systemctl", "stop", UNIT)
    shown = unit.show(UNIT, "Result", "ExecMainStatus", "ActiveState")
    assert shown == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}


def test_the_configuration_is_readable_by_the_service_and_writable_by_root_alone(unit: Box) -> None:
    shown = unit.run("stat", "-c", "%U %G %a", "/etc/gpu-agent", "/etc/gpu-agent/config.toml").stdout
    assert shown.split() == ["root", "gpu-agent", "750", "root", "gpu-agent", "640"]


@pytest.mark.parametrize("place", ["/var/lib/gpu-agent", "/var/cache/gpu-agent", "/run/gpu-agent"])
def test_its_directories_belong_to_the_service_alone(running: Box, place: str) -> None:
    assert running.run("stat", "-c", "%U %a", place).stdout.split() == ["gpu-agent", "700"]


@pytest.mark.skipif(systemd_version() < 252, reason="systemd looks into /etc/credstore since version 252")
def test_a_credential_in_the_store_reaches_the_service(running: Box) -> None:
    credentials = "/run/credentials/gpu-agent.service"
    assert running.run("ls", credentials).stdout.split() == ["node.key"], "the missing one is no error"
    assert running.run("cat", f"{credentials}/node.key").stdout == "a secret"


def test_sysusers_made_a_user_who_cannot_log_in(running: Box) -> None:
    assert running.run("getent", "passwd", "gpu-agent").stdout.strip().endswith(":/var/lib/gpu-agent:/usr/sbin/nologin")
    assert {"video", "render"} <= set(running.run("id", "-nG", "gpu-agent").stdout.split())


def test_the_sandbox_works_within_the_hardening(running: Box) -> None:
    """The unit leaves out what would break bubblewrap; here the real sandbox tries its escapes under the real unit."""
    command = "/opt/gpu-agent/venv/bin/gpu-agent doctor --json --set gpu.enabled=false"
    once = f"[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\nExecStart={command}\n"
    running.write("/etc/systemd/system/examined.service", UNIT_FILE.read_text())
    running.write("/etc/systemd/system/examined.service.d/once.conf", once)
    running.run("systemctl", "daemon-reload")
    done = running.run("systemctl", "start", "examined.service", check=False)
    assert done.returncode == 0, running.story("examined.service")
    told = json.loads(running.journal("-u", "examined.service", "_COMM=gpu-agent"))
    found = {finding["id"]: finding for finding in told["findings"]}
    assert found["sandbox.works"]["severity"] == "ok", found["sandbox.works"]
    assert found["state.writable"]["actual"].startswith("/var/lib/gpu-agent, mode 0700")
