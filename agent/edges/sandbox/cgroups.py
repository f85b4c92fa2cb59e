"""One cgroup per sandbox, written directly: version 2 where it is delegated to us, version 1 as root."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.core.errors import SandboxError
from agent.edges.sandbox.mechanisms import Means

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids", "cpu")
_ACCOUNTING = "cpuacct"
"""In version 1 a controller that only counts; in version 2 every group counts its cpu time."""
PERIOD_US = 100_000
"""Period of the cpu quota, the kernel's default."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_EMPTY_WITHIN_S = 2.0
"""A killed cgroup is empty within milliseconds; processes in disk sleep take longer and are left to the next start."""


class Group:
    """The cgroup of one sandbox: one directory, or in version 1 one per controller."""

    def __init__(self, version: int, directories: Mapping[str, Path]) -> None:
        self._version = version
        self._directories = directories

    def limit(self, means: Means) -> None:
        """Write the limits. Raises OSError."""
        for controller, directory in self._directories.items():
            for name, value in _settings(self._version, controller, means).items():
                _write(directory / name, value)
        if "memory" in self._directories and means.group_memory_bytes is not None:
            self._limit_swap(self._directories["memory"], means.group_memory_bytes)

    def _limit_swap(self, directory: Path, memory_bytes: int) -> None:
        # Present only where the kernel accounts swap; without it memory could go there.
        with contextlib.suppress(FileNotFoundError):
            if self._version == 2:
                _write(directory / "memory.swap.max", "0")
            else:
                _write(directory / "memory.memsw.limit_in_bytes", str(memory_bytes))

    def admit(self, pid: int) -> None:
        """Move a process in. Raises OSError."""
        for directory in self.places():
            _write(directory / "cgroup.procs", str(pid))

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something in here for the memory limit."""
        if "memory" not in self._directories:
            return False
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        return (_counter(self._directories["memory"] / name, "oom_kill") or 0) > 0

    def cpu_s(self) -> float | None:
        """Processor time of all that ever ran in here, in seconds; None where it is not counted."""
        if self._version == 1:
            used_ns = self._number(_ACCOUNTING, "cpuacct.usage")
            return None if used_ns is None else used_ns / 1e9
        for place in self.places():
            used_us = _counter(place / "cpu.stat", "usage_usec")
            return None if used_us is None else used_us / 1e6
        return None

    def memory_peak_bytes(self) -> int | None:
        """The most memory in use at once, tmpfs included; None where the kernel does not tell (v2 before 5.19)."""
        return self._number("memory", "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes")

    def _number(self, controller: str, name: str) -> int | None:
        if controller not in self._directories:
            return None
        with contextlib.suppress(OSError, ValueError):
            return int((self._directories[controller] / name).read_text())
        return None

    def remove(self) -> None:
        """Kill what is still inside and remove the directories; what cannot be removed is reaped at the next start."""
        for directory in self.places():
            _remove(directory)

    def places(self) -> Sequence[Path]:
        """Its directories."""
        return tuple(dict.fromkeys(self._directories.values()))


class Cgroups:
    """Where this agent may make cgroups."""

    def __init__(self, version: int, parents: Mapping[str, Path], tag: str) -> None:
        """`parents` maps controller → directory; `tag` begins the name of every group of ours and of nobody else's."""
        self.version = version
        self._parents = parents
        self._tag = tag
        self._made = 0

    @property
    def controllers(self) -> frozenset[str]:
        """Limits that a group made here can hold."""
        return frozenset(self._parents) - {_ACCOUNTING}

    def create(self, name: str, means: Means) -> Group:
        """Raises SandboxError."""
        self._made += 1
        leaf = f"{self._tag}-{_UNSAFE.sub('_', name)[:64]}-{os.getpid()}-{self._made}"
        directories = {controller: parent / leaf for controller, parent in self._parents.items()}
        group = Group(self.version, directories)
        try:
            for directory in dict.fromkeys(directories.values()):
                directory.mkdir()
            group.limit(means)
        except OSError as error:
            group.remove()
            raise SandboxError(f"no cgroup could be made for sandbox {name}: {error}") from error
        return group

    def reap(self) -> int:
        """Kill and remove the groups that an earlier run of this agent left behind; returns how many."""
        found = 0
        for parent in dict.fromkeys(self._parents.values()):
            for directory in parent.glob(f"{self._tag}-*"):
                found += 1
                _remove(directory)
        return found


def find(
    tag: str,
    *,
    root: Path = ROOT,
    membership: str | None = None,
    delegated: Callable[[Path], bool] | None = None,
) -> Cgroups | None:
    """Where cgroups may be made, or None. In version 2 the agent moves itself into a child group, which the rule of no
    inner processes demands, unless systemd (DelegateSubgroup=agent) already has.

    `membership` is the text of /proc/self/cgroup; `delegated` tells whether a version 2 directory was given to us.
    """
    paths = memberships(Path("/proc/self/cgroup").read_text() if membership is None else membership)
    if (root / "cgroup.controllers").exists():
        return _version_2(tag, _below(root, paths.get("", "/")), delegated or _is_delegated)
    # Resolved, since two controllers mounted together are one directory under two names.
    names = [c for c in (*CONTROLLERS, _ACCOUNTING) if c in paths and (root / c).is_dir()]
    parents = {c: _below((root / c).resolve(), paths[c]) for c in names}
    parents = {c: p for c, p in parents.items() if os.access(p, os.W_OK) and os.access(p / "cgroup.procs", os.W_OK)}
    return Cgroups(1, parents, tag) if parents.keys() - {_ACCOUNTING} else None


def _version_2(tag: str, own: Path, delegated: Callable[[Path], bool]) -> Cgroups | None:
    base = own.parent if own.name == "agent" and delegated(own.parent) else own
    if not delegated(base) or not os.access(base / "cgroup.subtree_control", os.W_OK):
        return None
    try:
        if base == own:
            (base / "agent").mkdir(exist_ok=True)
            for pid in (base / "cgroup.procs").read_text().split():
                _write(base / "agent" / "cgroup.procs", pid)
        offered = (base / "cgroup.controllers").read_text().split()
        usable = [c for c in CONTROLLERS if c in offered]
        _write(base / "cgroup.subtree_control", " ".join(f"+{c}" for c in usable))
    except OSError:
        # Not ours after all, or a process came in between: then the other means serve.
        return None
    return Cgroups(2, dict.fromkeys(usable, base), tag) if usable else None


def _is_delegated(directory: Path) -> bool:
    """systemd marks what it delegates; in a container's own cgroup namespace there is no mark, and no need for one."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def memberships(text: str) -> dict[str, str]:
    """Controller → path; version 2 has the empty controller."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _counter(path: Path, key: str) -> int | None:
    """The number after `key` in a file of such lines."""
    with contextlib.suppress(OSError, ValueError):
        for name, _, number in (line.partition(" ") for line in path.read_text().splitlines()):
            if name == key:
                return int(number)
    return None


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _settings(version: int, controller: str, means: Means) -> dict[str, str]:
    match version, controller:
        case 2, "memory" if means.group_memory_bytes is not None:
            return {"memory.max": str(means.group_memory_bytes), "memory.oom.group": "1"}
        case 1, "memory" if means.group_memory_bytes is not None:
            return {"memory.limit_in_bytes": str(means.group_memory_bytes)}
        case _, "pids" if means.group_pids is not None:
            return {"pids.max": str(means.group_pids)}
        case 2, "cpu" if means.group_cpus is not None:
            return {"cpu.max": f"{int(means.group_cpus * PERIOD_US)} {PERIOD_US}"}
        case 1, "cpu" if means.group_cpus is not None:
            return {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(int(means.group_cpus * PERIOD_US))}
    return {}


def _write(path: Path, text: str) -> None:
    # Never create: a missing file means a kernel without that limit, which must not pass for a limit that was set.
    with path.open("r+") as file:
        file.write(text)


def _remove(directory: Path) -> None:
    until = time.monotonic() + _EMPTY_WITHIN_S
    while directory.is_dir():
        try:
            directory.rmdir()
        except OSError:
            if time.monotonic() > until:
                return
            _kill(directory)
            time.sleep(0.01)


def _kill(directory: Path) -> None:
    # Linux 5.14 ends all at once, those too that are just being forked. The file can only be written.
    with contextlib.suppress(OSError):
        fd = os.open(directory / "cgroup.kill", os.O_WRONLY)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
        return
    with contextlib.suppress(OSError):
        for pid in map(int, (directory / "cgroup.procs").read_text().split()):
            # 0 stands for a process that this namespace does not see: to kill it would be to kill our own group.
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
