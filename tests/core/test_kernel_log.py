"""Lines of the NVIDIA kernel modules, as they stand in real logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.gpu import GpuEventKind, bus_address
from agent.core.kernel_log import gpu_event

LINES = {
    "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.": (
        "xid",
        79,
        "0000:3b:00",
    ),
    "NVRM: Xid (PCI:0000:01:00): 31, pid=4242, name=llama-server, Ch 00000008": ("xid", 31, "0000:01:00"),
    "NVRM: Xid (0000:03:00): 6, PE0001": ("xid", 6, "0000:03:00"),
    "nvidia-nvswitch3: SXid (PCI:0000:c6:00.0): 22013, Non-fatal, Link 38": ("sxid", 22013, "0000:c6:00"),
    "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.": ("fell_off_the_bus", None, "0000:3b:00"),
    "NVRM: The NVIDIA GPU 0000:41:00.0 NVRM: (PCI ID: 10de:2204) has fallen off the bus and is not responding": (
        "fell_off_the_bus",
        None,
        "0000:41:00",
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_driver_is_an_event_with_its_number_and_address(line: str) -> None:
    kind, code, address = LINES[line]

    event = gpu_event(f"4,1234,98765432,-;{line}")

    assert event is not None
    assert (event.kind, event.code, bus_address(event.pci_bus_id)) == (kind, code, address)
    assert (event.source, event.boot_s) == ("kernel", 98.765432)


@pytest.mark.parametrize(
    "record",
    [
        "6,1,5,-;usb 1-1: new high-speed USB device",
        "4,1,5,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.159.03",
        " SUBSYSTEM=pci",
        "NVRM: Xid (PCI:0000:3b:00): 79",
        "",
    ],
)
def test_any_other_record_is_none(record: str) -> None:
    assert gpu_event(record) is None


def test_a_line_that_a_program_logged_is_not_believed() -> None:
    assert gpu_event("12,1,5,-;NVRM: Xid (PCI:0000:3b:00): 79, forged") is None


def test_a_lines_escape_codes_stay_out_of_its_text() -> None:
    event = gpu_event("4,1,5,-;NVRM: Xid (PCI:0000:3b:00): 13, name=\x1b[31mevil\n")

    assert event is not None
    assert event.kind is GpuEventKind.XID
    assert "\x1b" not in event.text


@given(st.text())
def test_no_record_raises(record: str) -> None:
    gpu_event(record)
    gpu_event(f"4,1,5,-;NVRM: Xid ({record}): 1")
    bus_address(record)
