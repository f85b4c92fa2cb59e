"""The driver that runs and the one on the disk."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from agent.core.gpu import GpuReport
from agent.core.surroundings import driver_change
from agent.edges.gpu.versions import library_version, module_version


def cache(path: Path) -> bytes:
    """A loader's cache that knows one library."""
    names = f"libnvidia-ml.so.1\0{path}\0".encode()
    entry = struct.pack("=iIIIQ", 0x303, 72, 72 + 18, 0, 0)
    return struct.pack("=20sII20x", b"glibc-ld.so.cache1.1", 1, len(names)) + entry + names


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    (tmp_path / "libnvidia-ml.so.580.159.03").write_text("")
    (tmp_path / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.159.03")
    (tmp_path / "cache").write_bytes(cache(tmp_path / "libnvidia-ml.so.1"))
    return tmp_path


def test_the_library_that_a_program_would_load_now_is_told_by_its_file(installed: Path) -> None:
    assert library_version(cache=installed / "cache") == "580.159.03"
    assert library_version(str(installed / "libnvidia-ml.so.1")) == "580.159.03"


def test_an_upgrade_shows_at_once(installed: Path) -> None:
    (installed / "libnvidia-ml.so.1").unlink()
    (installed / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.590.10")

    assert library_version(cache=installed / "cache") == "590.10"


def test_what_does_not_tell_is_empty(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("")

    assert library_version(cache=tmp_path / "absent") == ""
    assert library_version(str(tmp_path / "libnvidia-ml.so.1")) == ""
    assert module_version(tmp_path / "absent") == ""


def test_the_kernels_module_tells_its_version(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("580.159.03\n")

    assert module_version(tmp_path / "version") == "580.159.03"


@pytest.mark.parametrize(
    ("module", "driver", "installed", "changed"),
    [
        ("580.1", "580.1", "580.1", False),
        ("580.1", "580.1", "590.2", True),
        ("580.1", "", "590.2", True),  # the library refuses to speak to the module already
        ("", "580.1", "590.2", True),
        ("580.1", "580.1", "", False),
        ("", "", "590.2", False),
    ],
)
def test_a_driver_that_was_upgraded_under_way_is_told(module: str, driver: str, installed: str, changed: bool) -> None:
    words = driver_change(GpuReport(module=module, driver=driver, installed=installed))

    assert bool(words) is changed
    assert ("Reboot" in words) is changed
