"""Which driver runs in the kernel, and which one lies on the disk: until a reboot an upgrade changes that one alone."""

from __future__ import annotations

import re
from pathlib import Path

from agent.edges import loader
from agent.edges.gpu.text import one_line

MODULE = Path("/sys/module/nvidia/version")
_LIBRARY = "libnvidia-ml.so.1"
_VERSIONED = re.compile(r"\.so\.(\d+(?:\.\d+)+)\Z")


def module_version(file: Path = MODULE) -> str:
    """Of the kernel module that is loaded, such as `580.159.03`; empty where there is none."""
    try:
        return one_line(file.read_text(errors="replace"))
    except OSError:
        return ""


def library_version(library: str = "", cache: Path = loader.CACHE) -> str:
    """Of the library that a program would load now, by its file's name; empty where that does not tell.

    `library`: a path in place of the loader's choice.
    """
    try:
        path = library if "/" in library else loader.cached(cache.read_bytes()).get(library or _LIBRARY, "")
        found = _VERSIONED.search(Path(path).resolve().name)
    except OSError:
        return ""
    return found[1] if found else ""
