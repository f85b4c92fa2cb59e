from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import Reason
from agent.core.owner import Observed, OwnerGates, OwnerPolicy
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


def in_use(gates: OwnerGates, now: float, *programs: str) -> str:
    """What the gate says, empty while it is open."""
    return "".join(gate.detail for gate in gates.read(Observed(at=MONDAY_NOON, programs=frozenset(programs)), now))


def test_a_compiler_that_is_started_every_few_seconds_is_in_use_all_the_while() -> None:
    gates = OwnerGates(OwnerPolicy(zone=UTC, programs_after_s=60.0))
    told = [in_use(gates, 5.0 * look, *(["cc1"] if look % 3 == 0 else [])) for look in range(30)]
    assert set(told) == {"in use: cc1; work comes 1 min 0 s after their end"}
    assert in_use(gates, 27 * 5.0 + 59.9) != ""
    assert in_use(gates, 27 * 5.0 + 60.0) == ""


def test_programs_that_take_turns_are_told_together_and_each_is_forgotten_in_its_time() -> None:
    gates = OwnerGates(OwnerPolicy(zone=UTC, programs_after_s=60.0))
    assert in_use(gates, 0.0, "cc1").startswith("in use: cc1;")
    assert in_use(gates, 5.0, "ld").startswith("in use: cc1, ld;")
    assert in_use(gates, 59.0, "ld").startswith("in use: cc1, ld;")
    assert in_use(gates, 60.0, "ld").startswith("in use: ld;")
    assert in_use(gates, 119.0).startswith("in use: ld;")
    assert in_use(gates, 120.0) == ""


@given(st.lists(st.booleans(), max_size=60), st.sampled_from((0.0, 7.0, 60.0)))
def test_work_comes_exactly_so_long_after_the_last_sight_of_a_program(seen: list[bool], after_s: float) -> None:
    gates, last = OwnerGates(OwnerPolicy(zone=UTC, programs_after_s=after_s)), None
    for look, runs in enumerate(seen):
        now = 5.0 * look
        last = now if runs else last
        shut = in_use(gates, now, *(["game"] if runs else [])) != ""
        assert shut is (runs or (last is not None and now - last < after_s))


def test_a_plan_says_until_when_it_holds_and_on_whose_clock() -> None:
    policy = OwnerPolicy(zone=ZoneInfo("Europe/Berlin"), clock="Europe/Berlin", windows=NIGHTS)
    assert policy.plan(MONDAY_NOON) == "shut until Mon 18:00, on the clock of Europe/Berlin"
    assert policy.plan(MONDAY_NOON.replace(hour=20)) == "open until Tue 08:00, on the clock of Europe/Berlin"
    (gate,) = policy.gates(Observed(at=MONDAY_NOON))
    assert gate.detail == "the owner's schedule opens Mon 18:00 (Europe/Berlin)"
    always = OwnerPolicy(zone=UTC, clock="UTC", windows=(parse_window("0:00-24:00"),))
    assert always.plan(MONDAY_NOON) == "open always, on the clock of UTC"
    assert OwnerPolicy(zone=UTC).plan(MONDAY_NOON) == ""


def test_a_plan_that_shuts_in_the_night_of_a_change_of_the_clock_tells_the_hour_that_the_clock_shows() -> None:
    """2026-03-29 in Berlin 02:00 becomes 03:00, and 02:30 never comes."""
    policy = OwnerPolicy(zone=ZoneInfo("Europe/Berlin"), clock="Berlin", windows=(parse_window("22:00-02:30"),))
    assert policy.plan(datetime(2026, 3, 28, 23, 0, tzinfo=UTC)).startswith("open until Sun 03:00")
