"""The host by /proc, /sys and the cgroup that the agent runs in."""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from agent import __version__
from agent.core.fingerprint import Cpu, Versions
from agent.ports import HostFacts

_MODEL = re.compile(r"^(?:model name|Model|Hardware|cpu model)\s*:\s*(.+)$", re.MULTILINE)
_NO_LIMIT = "max"


class Host:
    """Implements `ports.HostProbe`."""

    def __init__(
        self,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
        processors: Path = Path("/sys/devices/system/cpu"),
    ) -> None:
        self._proc = proc
        self._processors = processors
        self._cgroups = cgroups

    def facts(self) -> HostFacts:
        """Cheap enough to be asked anew for each fingerprint. Driver and CUDA versions are the GPU probe's to tell."""
        return HostFacts(
            hostname=socket.gethostname(),
            cpu=self._cpu(),
            memory_bytes=self._memory_bytes(),
            versions=Versions(
                agent=__version__, python=platform.python_version(), kernel=platform.release(), os=_os_name()
            ),
            boot_id=_read(self._proc / "sys/kernel/random/boot_id"),
        )

    def _cpu(self) -> Cpu:
        threads = os.cpu_count() or 1
        return Cpu(
            model=cpu_model(_read(self._proc / "cpuinfo")) or platform.machine(),
            cores=core_count(self._processors) or threads,
            threads=threads,
            arch=platform.machine(),
        )

    def _memory_bytes(self) -> int:
        limits = memory_limits(_read(self._proc / "self/cgroup"), self._cgroups)
        return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def cpu_model(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo; empty where it has none, as on many ARM machines."""
    found = _MODEL.search(cpuinfo)
    return found[1].strip() if found else ""


def core_count(processors: Path) -> int:
    """Cores of the processors below this folder of sysfs, however many threads each has; 0 where it does not tell.

    By the older of the file's two names: kernels before 5.3 know only that one.
    """
    return len({siblings.read_text() for siblings in processors.glob("cpu[0-9]*/topology/thread_siblings_list")})


def memory_limits(membership: str, root: Path) -> Iterator[int]:
    """Memory limits in bytes that bind a process, its own cgroup's first.

    `membership` is the text of /proc/PID/cgroup (cgroups(7)), `root` where cgroups are mounted: v2, v1, or both.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _limits(root, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(root / "memory", path, "memory.limit_in_bytes")


def _limits(mount: Path, path: str, name: str) -> Iterator[int]:
    """Limits of `path` and everything above it: each ancestor's binds as well."""
    group = PurePosixPath(path.lstrip("/"))
    for each in [group, *group.parents]:
        limit = _read(mount / each / name)
        if limit and limit != _NO_LIMIT:
            yield int(limit)


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _read(path: Path) -> str:
    """The text of a small kernel file; empty where the kernel or a container does not show it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
