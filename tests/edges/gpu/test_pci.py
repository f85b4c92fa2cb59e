"""NVIDIA cards on the PCI bus."""

from __future__ import annotations

from pathlib import Path

from agent.edges.gpu.pci import nvidia_devices


def device(bus: Path, address: str, vendor: str, kind: str) -> None:
    (bus / address).mkdir(parents=True)
    (bus / address / "vendor").write_text(vendor + "\n")
    (bus / address / "class").write_text(kind + "\n")


def test_display_and_3d_controllers_of_nvidia_are_found_and_nothing_else(tmp_path: Path) -> None:
    device(tmp_path, "0000:41:00.0", "0x10de", "0x030200")
    device(tmp_path, "0000:01:00.0", "0x10de", "0x030000")
    device(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # the audio function of the same card
    device(tmp_path, "0000:02:00.0", "0x1002", "0x030000")  # another vendor's

    assert nvidia_devices(tmp_path) == ["0000:01:00.0", "0000:41:00.0"]


def test_a_machine_without_a_pci_bus_has_none(tmp_path: Path) -> None:
    assert nvidia_devices(tmp_path / "absent") == []


def test_a_device_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()

    assert nvidia_devices(tmp_path) == []
