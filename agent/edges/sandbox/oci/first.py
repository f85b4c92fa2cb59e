"""Which process of this machine is the first one of a container. The engine says so, and the kernel is asked whether it
can be true.

Nothing that a process shows of itself would do, its arguments least of all: those of the container are in the engine's
own command line, which every user can read before there is a container.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.edges.sandbox.cgroups import memberships
from agent.edges.sandbox.oci.command import Command
from agent.edges.sandbox.oci.facts import EngineName
from agent.edges.sandbox.oci.words import Container
from agent.edges.sandbox.processes import PROC

_INSPECT_LIMIT_S = 10.0
"""docker answers in 0.03 s."""


class Told(NamedTuple):
    """What an engine says of a container that it has started."""

    container_id: str
    pid: int
    """Of its first process, as the engine numbers it."""


def ask(command: Command, container: Container) -> Told:
    """Blocks. podman has written it, before the process began, where only the agent's user can write; that saves a call
    of the engine, which docker has to be asked by. Raises SandboxError."""
    try:
        if command.name is EngineName.PODMAN:
            return Told(container.id_file.read_text().strip(), int(container.pid_file.read_text()))
        words = ("inspect", "--type", "container", "--format", "{{.Id}} {{.State.Pid}}", container.name)
        container_id, pid = command.ask(*words, limit_s=_INSPECT_LIMIT_S).split()
        return Told(container_id, int(pid))
    except (OSError, ValueError) as error:
        raise SandboxError(f"{command.name} does not say which process its container is: {error}") from error


def recognise(told: Told, *, accounted: bool, proc: Path = PROC) -> int:
    """A pidfd of the process that was told, which is number 1 of a pid namespace and, where its engine has cgroups to
    give (`accounted`), in the one that is named after the container. Raises SandboxError when it is not."""
    try:
        # Before it is looked at: what takes over its number later has not its cgroup.
        pidfd = os.pidfd_open(told.pid)
    except (OSError, ValueError) as error:
        raise SandboxError("the container ended while it was built") from error
    entry = proc / str(told.pid)
    if _leads(_read(entry / "status")) and (not accounted or _is_in(told.container_id, _read(entry / "cgroup"))):
        return pidfd
    os.close(pidfd)
    raise SandboxError(
        f"process {told.pid} is not the container that its engine says it is",
        remedy="Use an engine of this machine, with cgroups on, and in the agent's own pid namespace",
    )


def _leads(status: str) -> bool:
    """Whether it is number 1 of a pid namespace below ours."""
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            numbers = line.split()[1:]
            return len(numbers) > 1 and numbers[-1] == "1"
    return False


def _is_in(container_id: str, cgroup: str) -> bool:
    return bool(container_id) and any(container_id in path for path in memberships(cgroup).values())


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):  # it may have ended
        return path.read_text()
    return ""
