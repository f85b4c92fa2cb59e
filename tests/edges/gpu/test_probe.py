"""The probe with its real child process on the compiled driver: what goes wrong, and that nothing waits for it."""

from __future__ import annotations

import asyncio

import pytest

from agent.core.gpu import GpuFault, GpuReport
from agent.edges.gpu.probe import OPEN_PATIENCE_S, NoGpuProbe

SHORT_S = 0.4
"""A deadline that a healthy child keeps once the driver is opened."""


def faults(report: GpuReport) -> list[GpuFault | None]:
    return [gpu.fault for gpu in report.gpus]


async def test_eight_gpus_are_read(place, probe_of) -> None:
    report = await probe_of(place("h200x8").library).snapshot()

    assert (len(report.gpus), report.driver, report.fault) == (8, "580.159.03", None)


async def test_one_child_serves_all_snapshots(place, probe_of) -> None:
    probe = probe_of(place("geforce").library)
    await probe.snapshot()
    first = probe.child_pid

    await probe.snapshot()

    assert first is not None
    assert probe.child_pid == first


async def test_a_machine_without_a_driver_says_why_and_looks_again_later(place, probe_of, clock) -> None:
    driver = place("geforce")
    driver.hide()
    probe = probe_of(driver.library)
    report = await probe.snapshot()
    assert report.fault is GpuFault.DRIVER_ABSENT
    assert "install or load the NVIDIA driver" in report.detail

    driver.show()
    assert await probe.snapshot() == report, "not before its time"
    clock.advance(5)

    assert (await probe.snapshot()).gpus[0].name == "NVIDIA GeForce RTX 4090"


async def test_a_gpu_that_appears_after_the_start_is_found(place, probe_of, clock) -> None:
    driver = place("appears")
    probe = probe_of(driver.library)
    assert (await probe.snapshot()).fault is GpuFault.NO_GPU
    driver.at(5)
    clock.advance(5)

    assert len((await probe.snapshot()).gpus) == 1


@pytest.mark.parametrize(
    ("scenario", "fault", "remedy"),
    [
        ("no_gpu", GpuFault.NO_GPU, "seated"),
        ("not_loaded", GpuFault.DRIVER_ABSENT, "load the NVIDIA driver"),
        ("mismatch", GpuFault.DRIVER_MISMATCH, "reboot"),
        ("denied", GpuFault.DENIED, "/dev/nvidia"),
    ],
)
async def test_a_driver_that_cannot_be_used_says_what_to_do(place, probe_of, scenario, fault, remedy) -> None:
    report = await probe_of(place(scenario).library).snapshot()

    assert (report.fault, report.gpus) == (fault, ())
    assert remedy in report.detail


async def test_an_updated_driver_gets_a_new_child_at_once(place, probe_of) -> None:
    driver = place("updated")
    probe = probe_of(driver.library)
    await probe.snapshot()
    first = probe.child_pid
    driver.at(5)
    broken = await probe.snapshot()
    assert broken.fault is GpuFault.DRIVER_MISMATCH
    assert faults(broken) == [GpuFault.DRIVER_MISMATCH] * 8
    driver.at(9)

    whole = await probe.snapshot()

    assert (whole.fault, faults(whole)) == (None, [None] * 8)
    assert probe.child_pid != first


async def test_a_lost_gpu_and_one_that_vanishes_stay_listed(place, probe_of) -> None:
    driver = place("lost")
    probe = probe_of(driver.library)
    before = await probe.snapshot()
    driver.at(5)
    assert faults(await probe.snapshot()) == [GpuFault.GPU_LOST if i == 3 else None for i in range(8)]
    driver.at(9)

    after = await probe.snapshot()

    assert faults(after) == [GpuFault.GPU_LOST if i in {3, 7} else None for i in range(8)]
    assert [gpu.uuid for gpu in after.gpus] == [gpu.uuid for gpu in before.gpus]
    assert after.fault is None


async def test_a_crash_names_the_signal_and_the_next_child_reads_on(place, probe_of) -> None:
    driver = place("crash")
    probe = probe_of(driver.library)
    await probe.snapshot()
    driver.at(5)
    crashed = await probe.snapshot()
    assert crashed.fault is GpuFault.WORKER_CRASHED
    assert "SIGABRT" in crashed.detail
    driver.at(9)

    assert (await probe.snapshot()).fault is None


async def test_a_library_that_goes_on_crashing_is_tried_less_and_less_often(place, probe_of, clock) -> None:
    driver = place("crash")
    driver.at(5)
    probe = probe_of(driver.library)
    for _ in range(2):  # the second at once, then a pause
        assert (await probe.snapshot()).fault is GpuFault.WORKER_CRASHED
    driver.at(9)
    assert (await probe.snapshot()).fault is GpuFault.WORKER_CRASHED
    clock.advance(5)

    assert (await probe.snapshot()).fault is None


async def test_a_hung_driver_is_unresponsive_and_holds_up_nobody(place, probe_of, until_opened) -> None:
    driver = place("hang")
    probe = probe_of(driver.library, deadline_s=SHORT_S, open_patience_s=60)
    await until_opened(probe)
    driver.at(5)
    snapshot = asyncio.create_task(probe.snapshot())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not snapshot.done(), "the loop went round while the driver hung"

    report = await snapshot

    assert report.fault is GpuFault.DRIVER_UNRESPONSIVE
    assert faults(report) == [GpuFault.DRIVER_UNRESPONSIVE] * 8
    assert "has not answered for 0.4 s" in report.detail


async def test_a_driver_that_answers_again_is_read_by_a_new_child(place, probe_of, until_opened) -> None:
    driver = place("hang")
    probe = probe_of(driver.library, deadline_s=SHORT_S, open_patience_s=60)
    await until_opened(probe)
    hung = probe.child_pid
    driver.at(5)
    assert (await probe.snapshot()).fault is GpuFault.DRIVER_UNRESPONSIVE
    driver.at(0)

    await until_opened(probe)

    assert probe.child_pid != hung


async def test_a_driver_that_is_slow_to_open_is_waited_for(place, probe_of, clock, until_opened) -> None:
    driver = place("hang_on_init")
    probe = probe_of(driver.library, deadline_s=SHORT_S)
    first = await probe.snapshot()
    opening = probe.child_pid
    assert first.fault is GpuFault.DRIVER_UNRESPONSIVE
    assert "still opening" in first.detail
    await probe.snapshot()
    assert probe.child_pid == opening, "the same child is given time"
    clock.advance(OPEN_PATIENCE_S)
    await probe.snapshot()
    assert probe.child_pid is None, "but not for ever"
    driver.at(9)

    await until_opened(probe)


async def test_the_first_report_can_wait_for_a_driver_that_opens_slowly(place, probe_of) -> None:
    slow = "[scenario]\ninclude = geforce.ini\n[fault]\nfn = nvmlInit*\ndelay_ms = 1000\n"
    probe = probe_of(place(slow).library, deadline_s=SHORT_S)
    assert (await probe.snapshot()).fault is GpuFault.DRIVER_UNRESPONSIVE

    report = await probe.settled()

    assert (len(report.gpus), report.fault) == (1, None)


async def test_waiting_for_a_driver_that_is_not_there_ends_at_once(place, probe_of) -> None:
    driver = place("geforce")
    driver.hide()

    assert (await probe_of(driver.library).settled()).fault is GpuFault.DRIVER_ABSENT


async def test_callers_at_the_same_time_share_one_snapshot(place, probe_of) -> None:
    probe = probe_of(place("slow").library)

    first, *others = await asyncio.gather(*(probe.snapshot() for _ in range(5)))

    assert all(other is first for other in others)
    assert await probe.snapshot() is not first


async def test_a_caller_that_leaves_does_not_take_the_snapshot_along(place, probe_of) -> None:
    probe = probe_of(place("slow").library)
    leaving = asyncio.create_task(probe.snapshot())
    staying = asyncio.create_task(probe.snapshot())
    await asyncio.sleep(0)
    leaving.cancel()

    assert len((await staying).gpus) == 2


async def test_a_closed_probe_reads_nothing_and_does_not_raise(place, probe_of) -> None:
    probe = probe_of(place("geforce").library)
    await probe.close()

    report = await probe.snapshot()

    assert (report.gpus, report.fault) == ((), GpuFault.TRANSIENT)
    assert probe.child_pid is None


async def test_switched_off_gpus_are_none_and_the_report_says_so() -> None:
    probe = NoGpuProbe()

    assert (await probe.snapshot()).detail == "GPUs are switched off in the configuration (gpu.enabled)"
    await probe.close()
