"""Gates of single GPUs: what the owner allows, with hysteresis, and whether he uses a card himself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import DeviceGateChanged
from agent.core.gpu import Gpu, GpuFault, GpuProcess, GpuReport, GpuSample, MigSlice
from agent.core.gpu_policy import GpuGates, GpuPolicy, crossed
from agent.core.model import Reason

MIB = 1 << 20
COOL = GpuPolicy(max_temperature_c=80.0, cool_down_c=10.0)
LEAN = GpuPolicy(max_power_w=300.0, power_margin_w=50.0)
ALONE = GpuPolicy(idle_after_s=60.0, display_bytes=512 * MIB)
STRANGERS = frozenset({100, 101, 102})


def others(pids):
    return STRANGERS & set(pids)


def card(*users: GpuProcess, uuid: str = "GPU-1", processes: int | None = 0, **sample) -> Gpu:
    told = GpuSample(users=users, processes=None if processes is None else len(users), **sample)
    return Gpu(uuid=uuid, name="A", index=0, sample=told)


def program(pid: int, *kinds: str, mib: int | None = 4096, slice_: int | None = None) -> GpuProcess:
    return GpuProcess(pid=pid, kinds=kinds or ("compute",), memory_bytes=mib and mib * MIB, gpu_instance=slice_)


def read(gates: GpuGates, *gpus: Gpu, now: float = 0.0) -> list[tuple[str, Reason, bool]]:
    return [(it.devices[0], it.reason, it.shut) for it in gates.read(GpuReport(gpus=gpus), others, now)]


@pytest.mark.parametrize(
    ("policy", "field", "unit", "reason", "readings"),
    [
        (COOL, "temperature_c", 1, Reason.GPU_HOT, [(80, None), (81, True), (80, None), (71, None), (70, False)]),
        (LEAN, "power_mw", 1000, Reason.GPU_POWER, [(300, None), (301, True), (251, None), (250, False), (300, None)]),
    ],
)
def test_a_gate_shuts_above_its_limit_and_opens_at_its_margin_below(policy, field, unit, reason, readings) -> None:
    gates = GpuGates(policy)
    for value, moved in readings:
        wanted = [] if moved is None else [("GPU-1", reason, moved)]
        assert read(gates, card(**{field: value * unit})) == wanted, value


@given(st.lists(st.one_of(st.none(), st.integers(60, 95)), max_size=60))
def test_no_gate_moves_more_often_than_the_readings_cross_its_two_limits(readings: list[int | None]) -> None:
    gates, shut, moves = GpuGates(COOL), False, 0
    for value in readings:
        moved = read(gates, card(temperature_c=value))
        moves += len(moved)
        if moved:  # a gate that moves had a reading beyond the limit that it moves for
            assert value is not None
            assert value > 80 if moved[0][2] else value <= 70
            shut = moved[0][2]
        elif value is not None:
            assert shut or value <= 80
            assert not shut or value > 70
        assert bool(gates.shut) is shut
    zones = [1 if value > 80 else 0 for value in readings if value is not None and not 70 < value <= 80]
    assert moves == sum(zones[at] != before for at, before in enumerate([0, *zones[:-1]])) if zones else moves == 0


@given(st.booleans(), st.floats(0, 200), st.floats(0, 200), st.floats(0.1, 50))
def test_what_is_not_told_moves_nothing_and_a_margin_only_ever_delays(shut, value, limit, margin) -> None:
    assert crossed(shut, None, limit, margin) is shut
    assert crossed(True, value, limit, margin) or not crossed(False, value, limit, margin)


def test_each_gpu_is_judged_by_itself_and_its_slices_go_with_it() -> None:
    gates = GpuGates(COOL)
    part = MigSlice(uuid="MIG-1", name="1g", memory_total_bytes=1)
    hot = Gpu(uuid="GPU-2", name="A", index=1, mig=(part,), sample=GpuSample(temperature_c=90))
    (moved,) = gates.read(GpuReport(gpus=(card(temperature_c=50), hot)), others, 0.0)
    assert moved == DeviceGateChanged(
        devices=("GPU-2", "MIG-1"),
        reason=Reason.GPU_HOT,
        shut=True,
        detail="90 °C, above the 80 that its owner allows; work comes again at 70 °C",
    )


@pytest.mark.parametrize(
    ("user", "is_use"),
    [
        (program(100), True),
        (program(100, mib=None), True),
        (program(7), False),  # ours
        (program(100, "graphics", mib=300), False),  # a desktop
        (program(100, "compute", "graphics", mib=300), False),  # a desktop that computes its effects
        (program(100, "graphics", mib=3000), True),  # a game
        (program(100, "graphics", mib=None), False),
        (program(100, "mps"), True),
    ],
)
def test_programs_of_others_that_compute_or_draw_much_are_the_owners_use(user: GpuProcess, is_use: bool) -> None:
    assert bool(read(GpuGates(ALONE), card(user))) is is_use
    assert read(GpuGates(COOL), card(user)) == []


def test_a_gpu_takes_work_again_once_it_was_free_for_long_enough() -> None:
    gates = GpuGates(ALONE)
    (shut,) = gates.read(GpuReport(gpus=(card(program(100), program(101, mib=10)),)), others, 0.0)
    assert shut.detail == (
        "a program of its owner's uses it (process 100 with 4,096 MiB and 1 more); work comes after 1 min 0 s without"
    )
    assert read(gates, card(program(100)), now=50.0) == []
    assert read(gates, card(), now=109.0) == []
    assert read(gates, card(processes=None), now=120.0) == [], "a driver that is silent says nothing of its processes"
    assert read(gates, card(), now=121.0) == [("GPU-1", Reason.GPU_IN_USE, False)]


def test_a_gpu_that_cannot_be_read_stays_as_it_was() -> None:
    gates = GpuGates(GpuPolicy(idle_after_s=0.0, max_temperature_c=80.0, cool_down_c=10.0))
    assert len(read(gates, card(program(100), temperature_c=90))) == 2
    lost = Gpu(uuid="GPU-1", name="A", index=0, fault=GpuFault.GPU_LOST)
    assert read(gates, lost, now=500.0) == []
    assert read(gates, now=501.0) == []
    assert len(gates.shut) == 2


def test_a_slice_is_used_by_its_own_programs_alone() -> None:
    parts = tuple(MigSlice(uuid=f"MIG-{n}", name="1g", memory_total_bytes=1, gpu_instance=n) for n in (1, 2))
    users = (program(100, slice_=2),)
    gpu = Gpu(uuid="GPU-1", name="A", index=0, mig=parts, sample=GpuSample(users=users, processes=1))
    assert read(GpuGates(ALONE), gpu) == [("MIG-2", Reason.GPU_IN_USE, True)]


def test_where_an_engine_of_the_owners_serves_us_programs_that_compute_are_expected() -> None:
    gates = GpuGates(ALONE, lent=("GPU-1",))
    assert read(gates, card(program(100))) == []
    assert read(gates, card(program(100), program(101, "graphics"))) == [("GPU-1", Reason.GPU_IN_USE, True)]


def obeyed(gates: GpuGates, policy: GpuPolicy) -> list[tuple[str, Reason, bool]]:
    return [(it.devices[0], it.reason, it.shut) for it in gates.obey(policy)]


def test_a_limit_that_its_owner_takes_back_or_changes_is_judged_anew_and_another_goes_on_within_its_margin() -> None:
    both = GpuPolicy(max_temperature_c=80.0, cool_down_c=10.0, max_power_w=300.0, power_margin_w=50.0)
    gates = GpuGates(both)
    read(gates, card(temperature_c=85, power_mw=310_000))
    assert obeyed(gates, both) == []
    assert obeyed(gates, GpuPolicy(max_temperature_c=80.0, cool_down_c=10.0)) == [("GPU-1", Reason.GPU_POWER, False)]
    assert read(gates, card(temperature_c=75, power_mw=310_000)) == [], "as hot as it may be until it is cool"
    assert obeyed(gates, GpuPolicy(max_temperature_c=70.0, cool_down_c=10.0)) == [("GPU-1", Reason.GPU_HOT, False)]
    assert read(gates, card(temperature_c=75)) == [("GPU-1", Reason.GPU_HOT, True)]
    assert obeyed(gates, GpuPolicy()) == [("GPU-1", Reason.GPU_HOT, False)]
    assert read(gates, card(temperature_c=95, power_mw=400_000)) == []
