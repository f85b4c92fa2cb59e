"""What the driver tells unasked, through the real binding."""

from __future__ import annotations

import asyncio

import pytest

from agent.core.gpu import GpuEvent, GpuEventKind, GpuFault
from agent.edges.gpu.events import EventSet
from agent.edges.gpu.nvml import Absent, GpuError
from agent.edges.gpu.reader import Reader
from tests.patience import PATIENCE_S

TWO = """
[gpu*]
Name = N
UUID = GPU-{i}
SupportedEventTypes = 0x1ff
[gpu0]
[gpu1]
[event]
gpu = 1
at = 5
type = 8
data = 79
[event]
gpu = 0
at = 6
type = 0x100
[event]
gpu = 0
at = 6
type = 0x10
"""


def event_set(in_process, scenario: str, now) -> EventSet:
    in_process(scenario, now)
    reader = Reader(monotonic=lambda: 0.0)
    reader.open()
    reader.read()
    return EventSet(reader.handles())


def test_events_come_once_in_their_order_with_the_gpu_that_they_befell(in_process) -> None:
    now = 0.0
    events = event_set(in_process, TWO, lambda: now)
    assert events.wait(0) is None
    now = 10.0

    told = [events.wait(0) for _ in range(3)]

    assert told == [
        GpuEvent(kind=GpuEventKind.XID, source="nvml", gpu_uuid="GPU-1", code=79),
        GpuEvent(kind=GpuEventKind.MIG_CHANGED, source="nvml", gpu_uuid="GPU-0"),
        None,
    ]


def test_a_card_that_tells_no_events_is_absent_with_a_reason(in_process) -> None:
    with pytest.raises(Absent, match="not supported"):
        event_set(in_process, "[gpu0]\nUUID = GPU-1\nName = N\n", lambda: 0.0)


def test_one_card_that_tells_none_leaves_the_others_theirs(in_process) -> None:
    now = 0.0
    events = event_set(in_process, TWO.replace("[gpu0]\n", "[gpu0]\nSupportedEventTypes = 0\n"), lambda: now)
    now = 5.0

    event = events.wait(0)

    assert event is not None
    assert event.gpu_uuid == "GPU-1"


def test_a_lost_gpu_is_told_apart_from_the_end_of_events(in_process) -> None:
    fault = "[fault]\nfn = nvmlEventSetWait*\nfrom = 5\nret = GPU_IS_LOST\n"
    now = 0.0
    events = event_set(in_process, TWO + fault, lambda: now)
    now = 5.0

    with pytest.raises(GpuError) as caught:
        events.wait(0)

    assert caught.value.fault is GpuFault.GPU_LOST


async def test_the_child_hears_events_between_two_snapshots(place, probe_of) -> None:
    driver = place(TWO)
    probe = probe_of(driver.library)
    await probe.snapshot()
    driver.at(10)

    told: list[GpuEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(told) < 2:
            told += (await probe.snapshot()).events

    assert [(event.kind, event.gpu_uuid, event.code) for event in told] == [
        ("xid", "GPU-1", 79),
        ("mig_changed", "GPU-0", None),
    ]


async def test_a_driver_without_events_says_so_in_the_report(place, probe_of) -> None:
    report = await probe_of(place("wsl").library).snapshot()

    assert report.absent["events"] == "not supported by this card or driver"


async def test_a_changed_layout_is_read_at_once(place, probe_of) -> None:
    slices = "MigMode = 0 0; @5 1 1\nMaxMigDeviceCount = 7\n[mig0.0]\nUUID = MIG-1\nName = 1g\nMemoryInfo = 8 8 0\n"
    driver = place(TWO.replace("[gpu0]\n", f"[gpu0]\n{slices}", 1))
    probe = probe_of(driver.library)
    assert (await probe.snapshot()).gpus[0].mig == ()
    driver.at(10)

    async with asyncio.timeout(PATIENCE_S):
        while not (report := await probe.snapshot()).gpus[0].mig:
            pass

    assert [part.uuid for part in report.gpus[0].mig] == ["MIG-1"]
