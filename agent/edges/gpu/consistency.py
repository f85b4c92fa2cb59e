"""What /proc tells of NVIDIA's driver, to be held against what NVML says (`core.attest.consistency`)."""

from __future__ import annotations

import re
from pathlib import Path

from agent.core.gpu import KernelCard, KernelFacts
from agent.edges.gpu.text import one_line

PROC = Path("/proc")
_VERSION = re.compile(r"\b(\d{2,4}(?:\.\d+){1,2})\b")
_FIELDS = {"Model": "name", "GPU UUID": "uuid", "Video BIOS": "vbios"}


def kernel_facts(proc: Path = PROC) -> KernelFacts:
    """Never raises: what cannot be read is not told."""
    driver = proc / "driver/nvidia"
    folders = sorted((driver / "gpus").glob("*"))
    return KernelFacts(
        version=_version(driver / "version"),
        cards=tuple(_card(folder) for folder in folders),
        wsl="microsoft" in _text(proc / "sys/kernel/osrelease").lower(),
    )


def _version(file: Path) -> str:
    """The first line names the module: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  <date>`."""
    first = _text(file).partition("\n")[0]
    found = _VERSION.search(first.partition("Module")[2])
    return found[1] if found else ""


def _card(folder: Path) -> KernelCard:
    """`information` has a line a fact, such as `GPU UUID: \\t GPU-…`."""
    told = (line.partition(":") for line in _text(folder / "information").splitlines())
    facts = {_FIELDS[name.strip()]: one_line(value) for name, _, value in told if name.strip() in _FIELDS}
    return KernelCard(address=folder.name, **facts)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
