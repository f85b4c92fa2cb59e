"""What the core decides about GPUs: when to look again, and what stays listed."""

from __future__ import annotations

import pytest

from agent.core.gpu import Gpu, GpuFault, GpuReport, GpuSample, retry_delay_s, with_known


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
