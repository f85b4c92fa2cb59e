"""The unit file as systemd-analyze reads it: nothing unknown, nothing loose."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.systemd.box import systemd_version

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "gpu-agent.service"
POWER = SYSTEMD / "gpu-agent-power.service"
RETRY = SYSTEMD / "gpu-agent-power-retry.service"
BREAKS_BUBBLEWRAP = [
    "ProtectKernelTunables",
    "ProtectKernelLogs",
    "ProtectHostname",
    "ProtectControlGroups",
    "RestrictSUIDSGID",
    "DynamicUser",
    "ProcSubset",
    "PrivateUsers",
    "MemoryDenyWriteExecute",
    "PrivateDevices",
]

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def installed_as(program: str, place: Path, extra: str = "") -> Path:
    """A copy whose program exists here, since verify insists on it."""
    copy = place / UNIT.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", UNIT.read_text()) + extra)
    return copy


@needs_analyze
def test_verify_has_nothing_to_say(tmp_path: Path) -> None:
    verified = analyze("verify", "--man=no", str(installed_as("/bin/true", tmp_path)))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@needs_analyze
@pytest.mark.parametrize(("unit", "exposure"), [(POWER, 40), (RETRY, 25)], ids=["power", "retry"])
def test_the_units_of_the_power_limit_are_valid_and_tight(tmp_path: Path, unit: Path, exposure: int) -> None:
    for each in (POWER, RETRY):  # the one names the other
        text = re.sub(r"(?m)^(Exec\w+)=\S+", r"\1=/bin/true", each.read_text())
        (tmp_path / each.name).write_text(text)
    installed_as("/bin/true", tmp_path)  # that they go with
    verified = analyze("verify", "--man=no", str(tmp_path / unit.name))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    if systemd_version() >= 250:
        judged = analyze("security", "--offline=true", f"--threshold={exposure}", "--no-pager", str(unit))
        assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr


@needs_analyze
def test_verify_would_have_said_something(tmp_path: Path) -> None:
    verified = analyze(
        "verify", "--man=no", str(installed_as("/bin/true", tmp_path, "\n[Service]\nRestartSec=never\n"))
    )
    assert "never" in verified.stderr


@needs_analyze
@pytest.mark.skipif(
    systemd_version() < 250, reason="systemd-analyze judges files that are not loaded since version 250"
)
def test_exposure_is_at_most_3_5() -> None:
    judged = analyze("security", "--offline=true", "--threshold=35", "--no-pager", str(UNIT))
    assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr


@needs_analyze
def test_the_example_drop_in_is_valid_with_every_line_in_force(tmp_path: Path) -> None:
    example = (SYSTEMD / "gpu-agent.service.d/override.conf.example").read_text()
    unknown = "" if systemd_version() >= 250 else "|LoadCredentialEncrypted="
    in_force = re.sub(rf"(?m)^#(?!Requires={unknown})([A-Za-z]+=)", r"\1", example)  # that unit need not exist here
    assert in_force != example, "settings are commented out until somebody wants them"
    verified = analyze("verify", "--man=no", str(installed_as("/bin/true", tmp_path, "\n" + in_force)))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize("directive", BREAKS_BUBBLEWRAP)
def test_no_directive_breaks_the_sandbox_or_the_gpu(directive: str) -> None:
    assert not re.search(rf"(?m)^{directive}=(?!no)", UNIT.read_text())


def settings(name: str) -> str:
    return " ".join(re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text()))


def test_what_bubblewrap_needs_is_allowed() -> None:
    assert "AF_NETLINK" in settings("RestrictAddressFamilies")
    assert {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} <= set(settings("RestrictNamespaces").split())
    assert "@mount" in settings("SystemCallFilter")


def test_stopping_waits_longer_than_a_drain_may_take() -> None:
    from agent.config import NodeConfig

    assert int(settings("TimeoutStopSec")) > NodeConfig().drain_limit_s


def test_faults_that_only_a_person_mends_are_not_retried() -> None:
    from agent.core.errors import ConfigError, IdentityError

    assert set(settings("RestartPreventExitStatus").split()) == {
        str(ConfigError.exit_code),
        str(IdentityError.exit_code),
    }
