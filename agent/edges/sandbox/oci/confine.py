"""The limits of one container. Its engine sets them; here they are checked, and what came of them is read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from agent.core.errors import SandboxError
from agent.edges.sandbox.confine import refuse_root
from agent.edges.sandbox.fds import readable
from agent.edges.sandbox.oci import cgroup
from agent.edges.sandbox.oci.command import Command
from agent.edges.sandbox.places import Places
from agent.edges.sandbox.sources import give
from agent.ports import SandboxSpec, Used


class ContainerConfinement:
    """From before the program runs until after the container is gone."""

    def __init__(self, command: Command, name: str, spec: SandboxSpec, patience_s: float) -> None:
        """`patience_s`: how long the engine may take to see that the container has ended."""
        self._command = command
        self._patience_s = patience_s
        self._client: subprocess.Popen[bytes] | None = None
        self._name = name
        self._spec = spec
        self._pidfd = -1
        self._places: cgroup.Places | None = None
        self._remains = cgroup.Remains()

    def admit(self, pid: int) -> None:
        """Look at the held first process, and hand it its socket directory. Raises SandboxError, also when that process
        turns out to be root on the host, or when its engine has ignored a limit; then it has been handed nothing."""
        refuse_root(pid)
        self._places = cgroup.places(Path(f"/proc/{pid}/cgroup").read_text(), Path("/proc/self/cgroup").read_text())
        cgroup.require_held(self._places, self._spec.limits)
        if self._spec.socket_dir is not None:
            owner = Path(f"/proc/{pid}").stat()
            give(self._spec.socket_dir, owner.st_uid, owner.st_gid)
        self._pidfd = os.pidfd_open(pid)

    def follow(self, client: subprocess.Popen[bytes]) -> None:
        """`client` is the engine's process that stands for the container."""
        self._client = client

    async def watch(self, _places: Places, _exceeded: Callable[[], None]) -> None:
        """Read what the kernel counted as soon as the first process is dead: the engine takes a few hundredths of a
        second until it removes the cgroup. An engine that hangs then is waited for no longer."""
        try:
            await readable(self._pidfd)
            if self._places is not None:
                self._remains = cgroup.read(self._places)
        finally:
            os.close(self._pidfd)
        await asyncio.sleep(self._patience_s)
        if self._client is not None:
            self._client.kill()

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something inside for its memory limit. Blocks where the engine must be asked."""
        if self._spec.limits.memory_bytes is None:
            return False
        if self._remains.oom_killed is not None:
            return self._remains.oom_killed
        with contextlib.suppress(SandboxError):
            return (
                self._command.ask("inspect", "--format", "{{.State.OOMKilled}}", self._name, limit_s=5).strip()
                == "true"
            )
        return False

    def last_look(self) -> None:
        """Nothing: the engine's cgroup is there until its first process is dead."""

    def used(self, wall_s: float) -> Used:
        """What its cgroup counted."""
        return Used(wall_s=wall_s, cpu_s=self._remains.cpu_s, memory_peak_bytes=self._remains.memory_peak_bytes)

    def release(self) -> None:
        """Remove the container. Blocks."""
        # One that cannot be removed now is reaped at the next start: its first process is dead in any case.
        with contextlib.suppress(SandboxError):
            self._command.remove(self._name)
