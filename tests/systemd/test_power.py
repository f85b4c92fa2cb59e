"""The unit of the power limit beside the agent's under a real systemd, on a compiled driver: what it sets, it gives
back, however the agent ends."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.nvml.build import Builder, compiler
from tests.fakes.nvml.scenario import load
from tests.systemd.box import Box

pytestmark = pytest.mark.slow

UNIT, POWER, RETRY = "gpu-agent.service", "gpu-agent-power.service", "gpu-agent-power-retry.service"
DRIVER = "/opt/driver"
CONFIG = f'[gpu]\nlibrary = "{DRIVER}/libnvidia-ml.so.1"\n[owner]\npower_limit_w = 250\n'
STAND_IN = "[Service]\nType=exec\nWatchdogSec=0\nRestartSec=100ms\nExecStart=\nExecStart=/bin/sleep 1000\n"
# The fake keeps what it is told beside itself, which the real driver does not.
WRITABLE = f"[Service]\nReadWritePaths={DRIVER}\n"


@pytest.fixture(scope="module")
def held(box: Box, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box with a GPU, the unit installed as the page says, and something that stands in for the agent."""
    if compiler() is None:
        pytest.skip("no C compiler here, so the driver cannot be faked as a real library")
    place = tmp_path_factory.mktemp("driver")
    hosts = Path(__file__).parents[1] / "hosts"
    driver = Builder(place).place(load(hosts / "geforce.ini"), place / "driver")
    box.run("mkdir", DRIVER)
    for file in ("libnvidia-ml.so.1", "scenario.table"):
        content = base64.b64encode((driver.folder / file).read_bytes()).decode()
        box.run("sh", "-c", f"base64 -d > {DRIVER}/{file}", stdin=content)
    box.write("/etc/gpu-agent/config.toml", CONFIG, "0640")
    box.write(f"/etc/systemd/system/{UNIT}.d/stand-in.conf", STAND_IN)
    box.write(f"/etc/systemd/system/{POWER}.d/fake.conf", WRITABLE)
    tries(box, 1000)
    for unit in (POWER, RETRY):
        box.run("install", "-m", "0644", f"/opt/source/systemd/{unit}", "/etc/systemd/system/")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "enable", POWER)
    yield box
    box.run("systemctl", "stop", UNIT, POWER, RETRY, check=False)
    box.run("systemctl", "disable", POWER)
    box.run("rm", "-r", *(f"/etc/systemd/system/{unit}.d" for unit in (UNIT, POWER, RETRY)))
    box.run("rm", *(f"/etc/systemd/system/{unit}" for unit in (POWER, RETRY)))
    box.run("systemctl", "daemon-reload")


def tries(box: Box, most: int) -> None:
    """How often the driver is looked for again, and five times a second instead of every ten."""
    text = f"[Unit]\nStartLimitBurst={most}\n[Service]\nRestartSec=200ms\n"
    box.write(f"/etc/systemd/system/{RETRY}.d/soon.conf", text)


def limit_w(box: Box) -> str:
    """What the driver was told last."""
    return box.run("cat", f"{DRIVER}/power.0", check=False).stdout.removesuffix("000")


def test_the_limit_holds_while_the_agent_runs_and_is_given_back_when_it_is_stopped(held: Box) -> None:
    held.run("systemctl", "start", UNIT)
    assert limit_w(held) == "250", held.story(POWER)
    assert "250 W instead of 450 W" in held.journal(f"_SYSTEMD_UNIT={POWER}")
    # Whatever the owner has made of his configuration meanwhile.
    held.write("/etc/gpu-agent/config.toml", "[owner", "0640")
    held.run("systemctl", "stop", UNIT)
    held.write("/etc/gpu-agent/config.toml", CONFIG, "0640")
    held.until(POWER, lambda now: now["ActiveState"] == "inactive", "ActiveState")
    assert limit_w(held) == "450", held.story(POWER)


def test_an_agent_that_is_killed_gives_the_limit_back_and_takes_it_again_when_it_is_started_again(held: Box) -> None:
    held.run("systemctl", "start", UNIT)
    before = held.show(UNIT, "MainPID")
    held.run("systemctl", "kill", "-s", "KILL", UNIT)
    held.until(
        UNIT,
        lambda now: now["ActiveState"] == "active" and now["MainPID"] not in ("0", before["MainPID"]),
        "ActiveState",
        "MainPID",
    )
    held.eventually(lambda: limit_w(held) == "250", POWER)
    # And one that is not started again.
    held.write(f"/etc/systemd/system/{UNIT}.d/ends.conf", "[Service]\nRestart=no\n")
    held.run("systemctl", "daemon-reload")
    held.run("systemctl", "kill", "-s", "KILL", UNIT)
    held.eventually(lambda: limit_w(held) == "450", POWER)
    held.until(POWER, lambda now: now["ActiveState"] == "inactive", "ActiveState")


def test_an_agent_that_crashes_many_times_in_a_row_is_held_to_the_limit_each_time(held: Box) -> None:
    # Without systemd's own limit: five starts in ten seconds, and the agent would go on with no limit of power.
    assert held.show(POWER, "StartLimitIntervalUSec") == {"StartLimitIntervalUSec": "0"}


@pytest.fixture
def late(held: Box) -> Iterator[Box]:
    """The same, where nothing is given back, which without a driver is nothing but two more seconds each time."""
    brief = f"/etc/systemd/system/{POWER}.d/brief.conf"
    held.run("systemctl", "stop", UNIT, POWER, check=False)
    held.write(brief, "[Service]\nExecStopPost=\n")
    held.run("systemctl", "daemon-reload")
    yield held
    held.run("rm", brief)
    held.run("systemctl", "daemon-reload")


def without_driver(box: Box) -> None:
    """Start the agent where the driver is late."""
    assert limit_w(box) != "250"
    box.run("mv", f"{DRIVER}/libnvidia-ml.so.1", f"{DRIVER}/away")
    box.run("systemctl", "start", UNIT)


def test_a_driver_that_is_late_at_boot_does_not_hold_the_agent_up_and_is_held_to_the_limit_when_it_comes(
    late: Box,
) -> None:
    without_driver(late)
    assert late.show(UNIT, "ActiveState") == {"ActiveState": "active"}
    late.until(RETRY, lambda now: now["NRestarts"] not in ("", "0"), "NRestarts")
    # An agent that is stopped meanwhile is not started by the next try.
    late.run("systemctl", "stop", UNIT)
    late.until(RETRY, lambda now: now["ActiveState"] in ("inactive", "failed"), "ActiveState")
    assert late.show(UNIT, "ActiveState") == {"ActiveState": "inactive"}
    late.run("systemctl", "start", UNIT)
    assert limit_w(late) != "250"
    late.run("mv", f"{DRIVER}/away", f"{DRIVER}/libnvidia-ml.so.1")
    late.eventually(lambda: limit_w(late) == "250", RETRY)
    late.until(RETRY, lambda now: now["ActiveState"] == "inactive", "ActiveState")
    assert late.show(POWER, "ActiveState") == {"ActiveState": "active"}


def test_a_driver_that_never_comes_is_not_tried_for_ever_and_a_restart_makes_it_good(late: Box) -> None:
    tries(late, 1)
    late.run("systemctl", "daemon-reload")
    late.run("systemctl", "reset-failed", RETRY, check=False)
    without_driver(late)
    late.until(RETRY, lambda now: now == {"ActiveState": "failed", "NRestarts": "1"}, "ActiveState", "NRestarts")
    assert late.show(UNIT, "ActiveState") == {"ActiveState": "active"}
    late.run("mv", f"{DRIVER}/away", f"{DRIVER}/libnvidia-ml.so.1")
    late.run("systemctl", "restart", POWER)
    assert limit_w(late) == "250", late.story(POWER)
