"""What the core decides about GPUs: when to look again, and what stays listed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.core.gpu import (
    Gpu,
    GpuCondition,
    GpuFault,
    GpuPlace,
    GpuReport,
    GpuSample,
    MigSlice,
    place_of,
    retry_delay_s,
    still,
    units,
    with_known,
)


def gpu(index: int) -> Gpu:
    return Gpu(uuid=f"GPU-{index}", name="card", index=index, sample=GpuSample(power_mw=5))


@pytest.mark.parametrize(
    ("fault", "delays"),
    [
        (GpuFault.DRIVER_ABSENT, [5, 15, 30, 60, 60]),
        (GpuFault.NO_GPU, [5, 15, 30, 60, 60]),
        (GpuFault.WORKER_CRASHED, [0, 5, 15, 60, 60]),
        (GpuFault.DRIVER_MISMATCH, [0, 5, 15, 60, 60]),
    ],
)
def test_what_is_absent_is_looked_for_slowly_and_a_broken_one_tried_at_once(fault: GpuFault, delays: list[int]) -> None:
    assert [retry_delay_s(fault, failures) for failures in range(1, 6)] == delays


def test_every_fault_is_tried_again_within_a_minute() -> None:
    assert all(0 <= retry_delay_s(fault, 1000) <= 60 for fault in GpuFault)


def test_a_gpu_that_is_no_longer_listed_is_lost_and_without_readings() -> None:
    known = {f"GPU-{i}": gpu(i) for i in range(3)}

    report = with_known(GpuReport(gpus=(gpu(0), gpu(2))), known)

    assert [card.fault for card in report.gpus] == [None, GpuFault.GPU_LOST, None]
    assert report.gpus[1].sample == GpuSample()
    assert report.fault is None


def test_a_report_without_gpus_lists_the_known_ones_with_its_own_fault() -> None:
    broken = GpuReport(fault=GpuFault.DRIVER_UNRESPONSIVE, detail="silent")

    report = with_known(broken, {"GPU-0": gpu(0)})

    assert [(card.fault, card.detail) for card in report.gpus] == [(GpuFault.DRIVER_UNRESPONSIVE, "silent")]


def test_a_gpu_that_is_listed_is_left_as_it_is() -> None:
    report = GpuReport(gpus=(gpu(0),))

    assert with_known(report, {"GPU-0": gpu(0)}) == report


SLICES = tuple(
    MigSlice(uuid=f"MIG-{n}", name="3g", memory_total_bytes=1, gpu_instance=n, compute_instance=0) for n in (1, 2)
)
CUT = Gpu(uuid="GPU-cut", name="card", index=1, minor=3, mig_enabled=True, mig=SLICES)
WHOLE = Gpu(uuid="GPU-whole", name="card", index=0, minor=1)


def test_engines_are_placed_on_whole_gpus_and_on_slices_of_those_that_are_cut() -> None:
    assert units(GpuReport(gpus=(WHOLE, CUT))) == ("GPU-whole", "MIG-1", "MIG-2")


@pytest.mark.parametrize(
    "card",
    [
        replace(WHOLE, fault=GpuFault.GPU_LOST),
        replace(WHOLE, uuid="PCI:00000000:0A:00.0"),
        replace(WHOLE, uuid="index:0"),
        replace(CUT, mig=()),
    ],
)
def test_nothing_is_placed_on_a_gpu_that_is_broken_nameless_or_cut_into_nothing(card: Gpu) -> None:
    assert units(GpuReport(gpus=(card,))) == ()


def test_a_gpu_and_a_slice_have_their_places_among_the_nodes() -> None:
    report = GpuReport(gpus=(WHOLE, CUT))

    assert place_of(report, "GPU-whole") == GpuPlace(minor=1)
    assert place_of(report, "MIG-2") == GpuPlace(minor=3, gpu_instance=2, compute_instance=0)
    assert place_of(report, "GPU-other") is None


def test_what_the_driver_does_not_place_has_no_place() -> None:
    untold = (replace(WHOLE, minor=None), replace(CUT, mig=(replace(SLICES[0], compute_instance=None),)))

    assert [place_of(GpuReport(gpus=untold), uuid) for uuid in ("GPU-whole", "MIG-1")] == [None, None]


def test_what_stays_of_a_gpu_does_not_change_with_its_readings() -> None:
    absent = {"serial": "no", "power_mw": "no", "energy_mj": "no"}
    busy = replace(WHOLE, sample=GpuSample(power_mw=9), condition=GpuCondition(energy_mj=7), absent=absent)

    assert still(busy) == replace(WHOLE, absent={"serial": "no"})
