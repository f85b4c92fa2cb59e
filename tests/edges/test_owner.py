from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.config import OwnerConfig
from agent.core.model import Reason
from agent.core.owner import Observed
from agent.edges.owner import Machine, on_battery, owner_clock, owner_policy, owner_zone


@pytest.mark.parametrize("name", ["my-game", "a-game-whose-name-the-kernel-cuts"])
def test_a_listed_program_is_seen_while_it_runs_and_no_other(tmp_path: Path, name: str) -> None:
    sleep = shutil.which("sleep")
    if sleep is None:
        pytest.skip("no program here that can be started under a name of its own")
    program = tmp_path / name
    shutil.copy(sleep, program)
    machine = Machine((name, "another", name[:15] + "?"), battery=False)
    assert machine.look(0.0).programs == frozenset()
    with subprocess.Popen([program, "60"]) as running:
        assert machine.look(0.0).programs == {name}
        running.kill()
    assert machine.look(0.0).programs == frozenset()


def test_where_processes_of_others_are_hidden_work_stays_away_and_the_reason_says_what_to_do(tmp_path: Path) -> None:
    policy = owner_policy(OwnerConfig())
    (gate,) = policy.gates(Machine(["blender"], battery=False, proc=tmp_path).look(0.0))
    assert (gate.reason, "ProtectProc=default" in gate.detail) == (Reason.OWNER_PROGRAM, True)
    assert policy.gates(Machine([], battery=False, proc=tmp_path).look(0.0)) == [], "he listed none"
    assert policy.gates(Machine(["no such program"], battery=False).look(0.0)) == [], "they are not hidden here"


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([], None),
        ([("Mains", "online", "0")], None),
        ([("Mains", "online", "1"), ("Battery", "status", "Discharging")], False),
        ([("Mains", "online", "0"), ("Battery", "status", "Not charging")], True),
        ([("Mains", "online", "0"), ("Mains", "online", "1"), ("Battery", "status", "Full")], False),
        ([("Battery", "status", "Discharging")], True),
        ([("Battery", "status", "Charging")], False),
    ],
)
def test_a_machine_is_on_its_battery_when_no_mains_feeds_it(
    tmp_path: Path, supplies: list[tuple[str, str, str]], expected: bool | None
) -> None:
    for number, (kind, name, text) in enumerate(supplies):
        (tmp_path / f"S{number}").mkdir()
        (tmp_path / f"S{number}/type").write_text(kind + "\n")
        (tmp_path / f"S{number}" / name).write_text(text + "\n")
    assert on_battery(tmp_path) is expected


def test_the_battery_of_a_mouse_is_none_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "hidpp_battery_0").mkdir()
    for name, text in {"type": "Battery", "scope": "Device", "status": "Discharging"}.items():
        (tmp_path / "hidpp_battery_0" / name).write_text(text + "\n")
    assert on_battery(tmp_path) is None


def test_the_moment_is_the_clocks() -> None:
    assert Machine((), battery=True).look(1_700_000_000.0).at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_the_machines_own_zone_is_taken_where_none_is_named(tmp_path: Path) -> None:
    assert owner_zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")
    assert owner_zone(None, tmp_path / "none") is UTC
    (tmp_path / "localtime").write_bytes(b"no zone")
    assert owner_zone(None, tmp_path / "localtime") is UTC


def test_the_configuration_becomes_the_policy() -> None:
    policy = owner_policy(OwnerConfig(schedule=("18:00-08:00",), time_zone="Asia/Tokyo"))
    noon = Observed(at=datetime(2026, 11, 23, 3, 0, tzinfo=UTC))
    assert [gate.reason for gate in policy.gates(noon)] == [Reason.OUTSIDE_SCHEDULE]


def test_the_clock_of_the_schedule_is_called_by_its_name_and_by_who_chose_it(tmp_path: Path) -> None:
    assert owner_clock("Asia/Tokyo") == "Asia/Tokyo"
    linked = tmp_path / "linked"
    linked.symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert owner_clock(None, linked) == "Europe/Berlin (this machine's own)"
    assert owner_clock(None, tmp_path / "none") == "this machine (UTC)"
    assert owner_policy(OwnerConfig()).clock == "", "without a schedule no clock is read"
