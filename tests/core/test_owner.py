from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from agent.core.model import Reason
from agent.core.owner import Observed, OwnerPolicy
from agent.core.schedule import parse_window

NIGHTS = (parse_window("mon-fri 18:00-08:00"),)
MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def reasons(policy: OwnerPolicy, seen: Observed) -> list[Reason]:
    return [gate.reason for gate in policy.gates(seen)]


def test_an_owner_who_says_nothing_keeps_nobody_out() -> None:
    assert reasons(OwnerPolicy(zone=UTC), Observed(at=MONDAY_NOON)) == []
    assert reasons(OwnerPolicy(zone=UTC), Observed(at=MONDAY_NOON, on_battery=False)) == []


def test_the_schedule_is_read_on_the_owners_clock_and_tells_when_it_opens() -> None:
    (gate,) = OwnerPolicy(zone=UTC, windows=NIGHTS).gates(Observed(at=MONDAY_NOON))
    assert (gate.reason, gate.detail) == (Reason.OUTSIDE_SCHEDULE, "the owner's schedule opens Mon 18:00")
    tokyo = OwnerPolicy(zone=ZoneInfo("Asia/Tokyo"), windows=NIGHTS)  # 21:00 there
    assert tokyo.gates(Observed(at=MONDAY_NOON)) == []


def test_a_listed_program_that_runs_and_a_battery_keep_work_out() -> None:
    policy = OwnerPolicy(zone=UTC)
    seen = Observed(at=MONDAY_NOON, programs=frozenset({"steam", "blender"}), on_battery=True)
    assert [(gate.reason, gate.detail) for gate in policy.gates(seen)] == [
        (Reason.OWNER_PROGRAM, "in use: blender, steam"),
        (Reason.ON_BATTERY, "the machine runs on its battery"),
    ]


def test_a_battery_may_be_used_where_the_owner_says_so() -> None:
    assert reasons(OwnerPolicy(zone=UTC, may_use_battery=True), Observed(at=MONDAY_NOON, on_battery=True)) == []


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({"away_s": 0.0}, "somebody is at the machine; work comes 5 min 0 s after the last sign of that"),
        ({"away_s": 299.0}, "somebody is at the machine; work comes 5 min 0 s after the last sign of that"),
        ({"away_s": 300.0}, ""),
        ({"unknown": "no bus"}, "whether somebody is at the machine cannot be told: no bus"),
    ],
)
def test_work_comes_once_nobody_was_there_for_long_enough_and_never_while_that_is_not_known(seen, why) -> None:
    found = OwnerPolicy(zone=UTC, idle_after_s=300.0).gates(Observed(at=MONDAY_NOON, **seen))
    assert [(gate.reason, gate.detail) for gate in found] == ([(Reason.OWNER_ACTIVE, why)] if why else [])
    assert OwnerPolicy(zone=UTC).gates(Observed(at=MONDAY_NOON, **seen)) == []
