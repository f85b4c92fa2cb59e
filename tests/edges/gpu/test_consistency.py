"""A driver that is faked on this machine contradicts the kernel; one whose files are faked as well does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.attest.consistency import doubts_of
from agent.edges.gpu.consistency import kernel_facts
from agent.edges.gpu.models import card_table
from agent.edges.gpu.pci import nvidia_devices

DRIVER = "580.159.03"
VERSION = (
    f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {DRIVER}  Thu May  7 11:00:00 UTC 2026\n"
    "GCC version:  gcc version 12.3.0\n"
)
OPEN = VERSION.replace("UNIX x86_64 Kernel Module", "UNIX Open Kernel Module for x86_64")
BAR = "0x{first:016x} 0x{last:016x} 0x000000000014220c\n"


def information(number: int) -> str:
    return (
        "Model: \t\t NVIDIA H200\nIRQ:   \t\t 331\n"
        f"GPU UUID: \t GPU-3f1c0c2e-0000-4000-8000-00000000000{number}\n"
        f"Video BIOS: \t 96.00.be.00.0f\nBus Type: \t PCIe\nBus Location: \t 0000:1{number}:00.0\nDevice Minor: \t 0\n"
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """/proc and the bus as a machine with the eight cards of `h200x8` would have them."""
    driver = tmp_path / "proc" / "driver/nvidia"
    for number in range(8):
        place = f"0000:1{number}:00.0"
        told = driver / "gpus" / place
        told.mkdir(parents=True)
        (told / "information").write_text(information(number))
        device = tmp_path / "bus" / place
        device.mkdir(parents=True)
        for name, text in (("vendor", "0x10de"), ("class", "0x030200"), ("device", "0x2335")):
            (device / name).write_text(text + "\n")
        (device / "config").write_bytes(b"\xde\x10\x35\x23")
        windows = ((0x9000_0000, 16 << 20), (0x20_0000_0000, 256 << 30))
        lines = [BAR.format(first=first, last=first + size - 1) for first, size in windows]
        (device / "resource").write_text("".join(lines) + "0x0000000000000000 0x0000000000000000 0x0\n" * 5)
        (device / "driver").symlink_to("/sys/bus/pci/drivers/nvidia")
    (driver / "version").write_text(VERSION)
    return tmp_path


async def test_eight_h200_that_nothing_but_a_library_tells_of_are_doubted(place, probe_of) -> None:
    report = await probe_of(place("h200x8").library).snapshot()

    doubts = doubts_of(report, card_table())
    assert len(doubts) == 8
    assert {doubt.code for found in doubts.values() for doubt in found} == {"no_kernel_driver", "no_pci_device"}


async def test_a_fake_that_fakes_the_files_too_is_left_to_the_challenge(place, probe_of, files: Path) -> None:
    report = await probe_of(place("h200x8").library, bus=files / "bus", proc=files / "proc").snapshot()

    assert len(report.gpus) == 8
    assert doubts_of(report, card_table()) == {}


async def test_a_single_file_that_tells_otherwise_is_enough(place, probe_of, files: Path) -> None:
    (files / "bus/0000:13:00.0/device").write_text("0x2504\n")

    report = await probe_of(place("h200x8").library, bus=files / "bus", proc=files / "proc").snapshot()

    (found,) = doubts_of(report, card_table()).values()
    assert [doubt.code for doubt in found] == ["pci_model"]
    assert "10de:2504, which is no NVIDIA H200" in found[0].evidence


def test_the_version_is_read_of_both_kinds_of_kernel_module(files: Path) -> None:
    assert kernel_facts(files / "proc").version == DRIVER
    (files / "proc/driver/nvidia/version").write_text(OPEN)
    assert kernel_facts(files / "proc").version == DRIVER


def test_windows_of_a_card_are_told_by_size(files: Path) -> None:
    assert nvidia_devices(files / "bus")[0].bar_bytes == (16 << 20, 256 << 30)


def test_where_there_is_nothing_nothing_is_told(tmp_path: Path) -> None:
    told = kernel_facts(tmp_path)

    assert (told.version, told.cards, told.wsl) == ("", (), False)


def test_every_model_of_the_table_is_found_by_its_own_name() -> None:
    names = ["NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 4090", "Tesla T4"]
    import re

    for name in names:
        assert [card for card in card_table() if re.fullmatch(card.name, name)], name
    assert not [card for card in card_table() if re.fullmatch(card.name, "NVIDIA GeForce RTX 4090 Laptop GPU")]
