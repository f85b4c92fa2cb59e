"""A box with the package installed where the unit expects it, and the escape suite within the unit."""

from __future__ import annotations

import contextlib
import json
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.escape.suite import Tried, Verdict
from tests.systemd.box import Box
from tests.tiny_model import write_tiny_model

REPOSITORY = Path(__file__).parents[2]
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
VENV = "/opt/gpu-agent/venv"
UNIT = REPOSITORY / "systemd" / "gpu-agent.service"
_FOUND = "/run/escape.json"
_ONCE = f"""[Service]
Type=oneshot
Restart=no
WatchdogSec=0
WorkingDirectory=/opt/source
StandardOutput=truncate:{_FOUND}
StandardError=journal
ExecStart=
ExecStart={VENV}/bin/python -m tests.escape --only bubblewrap --user user --json
"""


@contextlib.contextmanager
def installed_box(place: Path) -> Iterator[Box]:
    """A booted systemd with the unit, its user and its virtual environment in place."""
    models = place / "models"
    models.mkdir(mode=0o755)
    write_tiny_model(models / "tiny.gguf")
    binds = {
        models: "/opt/models",
        Path(sys.base_prefix): "/opt/python",  # ProtectHome= would hide an interpreter below a home directory
        Path(sysconfig.get_path("purelib")): "/opt/packages",
        REPOSITORY: "/opt/source",
    }
    with Box(place / "box", binds) as booted:
        _install(booted)
        yield booted


def tried_in_service(box: Box) -> Mapping[str, Tried]:
    """Verdict of every attempt, made in sandboxes of an agent that has all the hardening of the unit."""
    box.write("/etc/systemd/system/escaping.service", UNIT.read_text())
    box.write("/etc/systemd/system/escaping.service.d/once.conf", _ONCE)
    box.run("systemctl", "daemon-reload")
    # Status 1 tells of a new opening: that is for whoever reads the verdicts.
    box.run("systemctl", "start", "escaping.service", check=False)
    said = box.run("cat", _FOUND, check=False).stdout
    assert said, box.story("escaping.service")
    [found] = json.loads(said).values()
    return {name: Tried(Verdict(verdict), got) for name, (verdict, got) in found.items()}


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
    box.run("sh", "-euc", f'sudo() {{ "$@"; }}; cd /opt/source; {documented_steps()}')


def documented_steps() -> str:
    """The block of docs/install.md that puts the service in place."""
    marked = (REPOSITORY / "docs" / "install.md").read_text().split("<!-- tests/systemd runs this block")[1]
    return marked.split("```sh\n")[1].split("```")[0]
