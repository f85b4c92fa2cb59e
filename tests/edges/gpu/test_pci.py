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

    assert [card.address for card in nvidia_devices(tmp_path)] == ["0000:01:00.0", "0000:41:00.0"]


def test_the_driver_that_holds_a_card_is_named(tmp_path: Path) -> None:
    device(tmp_path, "0000:01:00.0", "0x10de", "0x030000")
    device(tmp_path, "0000:02:00.0", "0x10de", "0x030000")
    (tmp_path / "0000:02:00.0" / "driver").symlink_to("../../../bus/pci/drivers/vfio-pci")

    assert [card.driver for card in nvidia_devices(tmp_path)] == [None, "vfio-pci"]


def test_a_card_that_nobody_answers_for_is_told(tmp_path: Path) -> None:
    for address, config in (("0000:01:00.0", b"\xde\x10\x04\x27"), ("0000:02:00.0", b"\xff" * 64)):
        device(tmp_path, address, "0x10de", "0x030000")
        (tmp_path / address / "config").write_bytes(config)

    assert [card.answers for card in nvidia_devices(tmp_path)] == [True, False]


def test_a_machine_without_a_pci_bus_has_none(tmp_path: Path) -> None:
    assert nvidia_devices(tmp_path / "absent") == ()


def test_a_device_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()

    assert nvidia_devices(tmp_path) == ()
