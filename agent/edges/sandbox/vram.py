"""Holds sandboxes to the GPU memory that they may use: a Sandbox around another one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection

import structlog
from msgspec.structs import replace

from agent.core.errors import SandboxError
from agent.core.fingerprint import SandboxFacts
from agent.core.gpu import GpuReport
from agent.core.vram import Claim, Overuse, overuses, pids_on, unwatchable
from agent.edges.sandbox.processes import exists, tree
from agent.ports import ExitKind, Sandbox, SandboxExit, SandboxHandle, SandboxSpec


class GpuMemoryGuard:
    """Starts sandboxes by another Sandbox, knows their processes, and ends those that use more GPU memory than
    `gpu_memory_bytes` allows.

    It looks when a snapshot of the GPUs comes, and so is late by one period: a guard against a program that grows, not
    a wall.
    """

    def __init__(self, inner: Sandbox) -> None:
        self._inner = inner
        self._held: dict[_Held, asyncio.Task[SandboxExit]] = {}
        self._alive: dict[asyncio.Task[SandboxExit], SandboxHandle] = {}
        self._report = GpuReport()
        self._blind = False
        self._log = structlog.get_logger("sandbox")

    async def probe(self) -> SandboxFacts:
        """As the Sandbox inside."""
        return await self._inner.probe()

    async def start(self, spec: SandboxSpec) -> SandboxHandle:
        """Raises SandboxError also when the driver does not tell what a process uses."""
        if spec.limits.gpu_memory_bytes is None or not spec.gpus:
            return self._known(await self._inner.start(spec), spec)
        if reason := unwatchable(self._report, spec.gpus):
            raise SandboxError(
                f"the limit of GPU memory cannot be enforced here: {reason}",
                remedy="Remove gpu_memory_mib from the pool",
            )
        held = _Held(await self._inner.start(spec), spec.name, spec.gpus, spec.limits.gpu_memory_bytes)
        ended = self._held[held] = asyncio.create_task(held.wait(), name=f"gpu-memory-{spec.name}")
        ended.add_done_callback(lambda _: self._held.pop(held, None))
        return held

    def others(self, pids: Collection[int]) -> frozenset[int]:
        """Of these processes of this machine, those that neither the agent nor a sandbox of its started. One that is
        not to be seen here at all, from within a container, is nobody's."""
        ours = {pid for holder in (*self._alive.values(), *self._held) for pid in tree(holder.pid)}
        ours.update(tree(os.getpid()))
        return frozenset(pid for pid in pids if pid not in ours and exists(pid))

    def _known(self, handle: SandboxHandle, spec: SandboxSpec) -> SandboxHandle:
        """Containers are no descendants of the agent: they are ours as long as they live."""
        if spec.gpus:
            ended = asyncio.create_task(handle.wait(), name=f"gpu-user-{spec.name}")
            self._alive[ended] = handle
            ended.add_done_callback(lambda task: self._alive.pop(task, None))
        return handle

    def see(self, report: GpuReport) -> None:
        """Judge what runs by a new snapshot."""
        self._report = report
        held = {claim.name: (holder, claim) for holder in self._held if (claim := holder.claim(report))}
        for over in overuses(report, (claim for _, claim in held.values())):
            holder, _ = held[over.name]
            self._log.warning("sandbox.gpu_memory", sandbox=holder.name, detail=str(over))
            holder.end(over)
        self._look_for_strangers(report)

    def _look_for_strangers(self, report: GpuReport) -> None:
        """Told once: in a container without the host's processes, the driver's numbers mean nobody."""
        pids = {pid for holder in self._held for pid in pids_on(report, holder.gpus)}
        blind = bool(pids) and not any(map(exists, pids))
        if blind and not self._blind:
            self._log.warning(
                "sandbox.gpu_memory_unwatched",
                detail="The driver lists processes that this agent cannot see, so no limit of GPU memory holds. "
                "Run the agent outside a container, or share the host's processes with it",
            )
        self._blind = blind


class _Held:
    """A SandboxHandle that knows why it was ended."""

    def __init__(self, handle: SandboxHandle, name: str, gpus: tuple[str, ...], limit_bytes: int) -> None:
        self._handle = handle
        self.name = name
        self.gpus = gpus
        self._limit_bytes = limit_bytes
        self._over: Overuse | None = None

    def claim(self, report: GpuReport) -> Claim | None:
        """What to judge; None for one that uses none of its GPUs, or is being ended."""
        if self._over is not None or not pids_on(report, self.gpus):
            return None
        pids = frozenset(tree(self.pid))
        # Named by its process: labels need not be unique.
        return Claim(name=str(self.pid), gpus=self.gpus, pids=pids, limit_bytes=self._limit_bytes)

    def end(self, over: Overuse) -> None:
        """Kill it for this."""
        self._over = over
        self._handle.kill()

    @property
    def pid(self) -> int:
        return self._handle.pid

    @property
    def out_fd(self) -> int | None:
        return self._handle.out_fd

    def stderr_tail(self) -> str:
        return self._handle.stderr_tail()

    def stdout(self) -> AsyncIterator[bytes]:
        return self._handle.stdout()

    def close(self) -> None:
        self._handle.close()

    def kill(self) -> None:
        self._handle.kill()

    async def wait(self) -> SandboxExit:
        return self._told(await self._handle.wait())

    async def stop(self, grace_s: float) -> SandboxExit:
        return self._told(await self._handle.stop(grace_s))

    def _told(self, end: SandboxExit) -> SandboxExit:
        if self._over is None or end.kind is not ExitKind.STOPPED:
            return end
        return replace(end, kind=ExitKind.OUT_OF_GPU_MEMORY, detail=str(self._over))
