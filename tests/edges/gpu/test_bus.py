"""The PCI bus and the kernel's log speak while the driver is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.gpu import Gpu, GpuFault, GpuReport, PciGpu, bus_address
from agent.core.surroundings import Surroundings, with_surroundings
from agent.edges.gpu.probe import NvmlProbe

SHORT_S = 0.4
HERE, GONE = Gpu(uuid="GPU-1", name="A", index=0, pci_bus_id="00000000:3B:00.0"), "0000:3b:00"


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    """The cards of `h200x8`, bound to the driver."""
    for number in range(8):
        device = tmp_path / "bus" / f"0000:1{number}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
        (device / "config").write_bytes(b"\xde\x10\x35\x23")
        (device / "driver").symlink_to("/sys/bus/pci/drivers/nvidia")
    return tmp_path / "bus"


def faults(report: GpuReport) -> list[GpuFault | None]:
    return [gpu.fault for gpu in report.gpus]


async def test_cards_of_the_bus_are_listed_with_their_driver(place, probe_of, bus: Path) -> None:
    report = await probe_of(place("h200x8").library, bus=bus).snapshot()

    assert [(card.address, card.driver, card.answers) for card in report.bus][7] == ("0000:17:00.0", "nvidia", True)
    assert faults(report) == [None] * 8


async def test_a_card_that_left_the_bus_is_lost_though_the_driver_counts_it(place, probe_of, bus: Path) -> None:
    (bus / "0000:12:00.0" / "config").write_bytes(b"\xff" * 64)

    report = await probe_of(place("h200x8").library, bus=bus).snapshot()

    assert faults(report) == [GpuFault.GPU_LOST if i == 2 else None for i in range(8)]
    assert "no longer answers on the PCI bus" in report.gpus[2].detail


async def test_a_hung_driver_does_not_hide_which_card_left_the_bus(
    place, probe_of, until_opened, bus: Path, tmp_path: Path
) -> None:
    driver, log = place("hang"), tmp_path / "kmsg"
    log.write_text("")
    probe: NvmlProbe = probe_of(driver.library, deadline_s=SHORT_S, open_patience_s=60, bus=bus, kernel_log=log)
    await until_opened(probe)
    driver.at(5)
    (bus / "0000:12:00.0" / "config").write_bytes(b"\xff" * 64)
    log.write_text("4,1,5,-;NVRM: Xid (PCI:0000:12:00): 79, GPU has fallen off the bus.\n")

    told = []
    for _ in range(100):  # the first says that the driver hangs; a new child, which looks at the bus, needs a moment
        report = await probe.snapshot()
        told += report.events
        if report.gpus[2].fault is GpuFault.GPU_LOST:
            break

    assert faults(report) == [GpuFault.GPU_LOST if i == 2 else GpuFault.DRIVER_UNRESPONSIVE for i in range(8)]
    assert [(event.kind, event.code, bus_address(event.pci_bus_id)) for event in told] == [("xid", 79, "0000:12:00")]


async def test_what_was_logged_before_the_start_is_told_though_the_driver_opens_slowly(
    place, probe_of, tmp_path: Path
) -> None:
    log = tmp_path / "kmsg"
    log.write_text("4,1,5,-;NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n")
    slow = "[gpu0]\nUUID = GPU-1\nName = A\n[fault]\nfn = nvmlInit*\ndelay_ms = 1200\n"
    probe = probe_of(place(slow).library, deadline_s=SHORT_S, kernel_log=log)

    report = await probe.settled()

    assert [event.code for event in report.events] == [79]
    assert (await probe.snapshot()).events == ()


async def test_a_log_that_may_not_be_read_is_absent_with_a_reason(place, probe_of, tmp_path: Path) -> None:
    report = await probe_of(place("geforce").library, kernel_log=tmp_path / "absent").snapshot()

    assert "No such file" in report.absent["kernel_log"]


def test_a_gpu_that_vanishes_from_the_bus_is_lost() -> None:
    report = with_surroundings(GpuReport(gpus=(HERE,)), Surroundings(), {GONE})

    assert (report.gpus[0].fault, "gone from the PCI bus" in report.gpus[0].detail) == (GpuFault.GPU_LOST, True)


def test_a_gpu_that_the_bus_never_listed_is_not_judged_by_it() -> None:
    other = PciGpu(address="0000:99:00.0", driver="nvidia")

    report = with_surroundings(GpuReport(gpus=(HERE,)), Surroundings(bus=(other,)), {"0000:99:00"})

    assert report.gpus == (HERE,)


@pytest.mark.parametrize("text", ["00000000:3B:00.0", "0000:3b:00.0", "PCI:0000:3b:00", "0000:3b:00"])
def test_an_address_has_one_form(text: str) -> None:
    assert bus_address(text) == "0000:3b:00"


@pytest.mark.parametrize("text", ["", "GPU-1", "3b:00.0"])
def test_what_is_no_address_has_none(text: str) -> None:
    assert bus_address(text) == ""
