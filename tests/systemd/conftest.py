"""One box for all tests here, with the package installed where the unit expects it."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.box import Box, why_not

REPOSITORY = Path(__file__).parents[2]
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
VENV = "/opt/gpu-agent/venv"


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A booted systemd with the unit, its user and its virtual environment in place."""
    if reason := why_not():
        pytest.skip(reason)
    binds = {
        Path(sys.base_prefix): "/opt/python",  # ProtectHome= would hide an interpreter below a home directory
        Path(sysconfig.get_path("purelib")): "/opt/packages",
        REPOSITORY: "/opt/source",
    }
    with Box(tmp_path_factory.mktemp("systemd") / "box", binds) as booted:
        _install(booted)
        yield booted


def _install(box: Box) -> None:
    """As docs/install.md does it, but with the packages of this test run instead of a download."""
    box.write("/etc/ld.so.conf.d/00-python.conf", "/opt/python/lib\n")  # an interpreter may be a shared library
    box.run("ldconfig")
    box.run(PYTHON, "-m", "venv", "--without-pip", VENV)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    box.write(f"{VENV}/lib/python{version}/site-packages/gpu-agent.pth", "/opt/source\n/opt/packages\n")
    box.write(
        f"{VENV}/bin/gpu-agent",
        f"#!{VENV}/bin/python\nimport sys\nfrom agent.__main__ import main\nsys.exit(main())\n",
        "0755",
    )
    for source, target in (
        ("gpu-agent.service", "/etc/systemd/system/gpu-agent.service"),
        ("gpu-agent.sysusers.conf", "/usr/lib/sysusers.d/gpu-agent.conf"),
    ):
        box.write(target, (REPOSITORY / "systemd" / source).read_text())
    box.run("systemd-sysusers", "gpu-agent.conf")
    box.run("systemctl", "daemon-reload")
