"""The device nodes that a sandbox needs for its GPUs, and no others."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.core.errors import SandboxError

DEV = Path("/dev")
_SHARED = ("nvidiactl", "nvidia-uvm")


def device_nodes(gpus: Sequence[str], minor_of: Callable[[str], int | None], dev: Path = DEV) -> list[Path]:
    """The nodes for GPUs named by UUID. `minor_of` gives the driver's minor number, None for a GPU it does not know.

    Raises SandboxError when a GPU is unknown or a node is missing.
    """
    if not gpus:
        return []
    nodes = [dev / name for name in _SHARED]
    for uuid in gpus:
        minor = minor_of(uuid)
        if minor is None:
            raise SandboxError(f"GPU {uuid} is not on this machine", remedy="`gpu-agent gpus` lists those that are")
        nodes.append(dev / f"nvidia{minor}")
    for node in nodes:
        if not _is_device(node):
            raise SandboxError(
                f"{node} is missing, so the GPU cannot be used in a sandbox",
                remedy="`sudo nvidia-modprobe -u -c 0` makes the device nodes",
            )
    return nodes


def _is_device(node: Path) -> bool:
    try:
        return stat.S_ISCHR(node.lstat().st_mode)
    except FileNotFoundError:
        return False
