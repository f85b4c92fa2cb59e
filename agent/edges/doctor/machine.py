"""Reads this machine: files, limits, cgroups, namespaces, the service."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent.core import judgements as judge
from agent.core.doctor import Finding

_UNIT = "gpu-agent.service"
_SYSTEMCTL_S = 10.0


def python() -> Finding:
    """The interpreter that runs this."""
    return judge.python(sys.version_info[:3])


def clock() -> Finding:
    """This machine's wall clock."""
    return judge.clock(time.time())


def open_files() -> Finding:
    """The hard limit on descriptors."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return judge.open_files(sys.maxsize if hard == resource.RLIM_INFINITY else hard)


def directory(id_: str, path: Path, purpose: str) -> Finding:
    """Writes a file and removes it. A directory that is not there yet is judged by its nearest parent."""
    place = existing(path)
    return judge.directory(
        id_,
        str(path),
        purpose=purpose,
        fault=_write_fault(place),
        mode=path.stat().st_mode & 0o777 if place == path else 0o700,  # made 0700 when it is first needed
    )


def existing(path: Path) -> Path:
    """`path`, or its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _write_fault(place: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"probe")
            probe.flush()
    except OSError as fault:
        return f"cannot write in {place}: {fault.strerror}"
    return ""


def key_file(path: Path) -> Finding:
    """Mode of the node's key; its content is not read."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return judge.key_file(str(path), present=False, fault="", mode=0)
    except OSError as fault:
        return judge.key_file(str(path), present=False, fault=f"{path}: {fault.strerror}", mode=0)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = directory is not None and path.parent == Path(directory)
    return judge.key_file(str(path), present=True, fault="", mode=facts.st_mode & 0o777, credential=credential)


def disk(path: Path) -> Finding:
    """Free space where the state is."""
    return judge.disk(str(path), shutil.disk_usage(existing(path)).free)


def service() -> Finding:
    """The unit as systemd sees it."""
    if shutil.which("systemctl") is None or not Path("/run/systemd/system").exists():
        return judge.service("", "", "")
    properties = "LoadState,ActiveState,SubState,StatusText"
    shown = subprocess.run(
        ["systemctl", "show", _UNIT, "--property", properties],  # noqa: S607  (whichever systemctl this system has)
        capture_output=True,
        text=True,
        timeout=_SYSTEMCTL_S,
        check=False,
    ).stdout
    facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if facts.get("LoadState") != "loaded":
        return judge.service("", "", "")
    return judge.service(facts["ActiveState"], facts["SubState"], facts.get("StatusText", ""))
