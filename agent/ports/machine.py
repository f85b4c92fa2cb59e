"""The machine: its clock, its GPUs, its host, its owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agent.core.findings import Finding
from agent.core.fingerprint import Cpu, Versions
from agent.core.gpu import GpuReport
from agent.core.model import Value
from agent.core.owner import Observed
from agent.core.pauses import KeptPause
from agent.core.release import Holding, Taken


class Clock(Protocol):
    """Time. Only `monotonic` decides anything."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class GpuProbe(Protocol):
    """Reads GPUs; a hung driver delays no caller beyond the probe's own deadline."""

    async def snapshot(self) -> GpuReport:
        """Never raises: what goes wrong is `fault` and `detail` of the report or of one GPU."""
        ...

    async def settled(self) -> GpuReport:
        """Like `snapshot`, but waits for a driver that is still opening its GPUs; bounded too."""
        ...

    async def close(self) -> None: ...


class Findings(Protocol):
    """What lasts of the findings about GPUs, over restarts of the agent."""

    def load(self) -> Sequence[Finding]: ...
    def keep(self, findings: Sequence[Finding]) -> None:
        """Durable when it returns; blocks. Raises StorageError."""
        ...


class Pauses(Protocol):
    """What lasts of the owner's pauses, over restarts of the agent."""

    def load(self) -> Sequence[KeptPause]:
        """Blocks. Raises StorageError when what was kept cannot be read."""
        ...

    def keep(self, pauses: Sequence[KeptPause]) -> None:
        """All of them; durable when it returns; blocks. Raises StorageError."""
        ...


class HostFacts(Value):
    """The host, by /proc and /sys."""

    hostname: str
    cpu: Cpu
    memory_bytes: int
    versions: Versions
    boot_id: str


class OwnerView(Protocol):
    """The owner's side of the machine."""

    def look(self, wall: float) -> Observed:
        """At `wall`, Unix seconds. Blocks for some milliseconds; never raises."""
        ...


class EngineMemory(Protocol):
    """What engines of ours take of the GPUs' memory, or of the machine's."""

    def taken(self, name: str) -> Taken:
        """By a pool's engine, in this life of it or the one before."""
        ...

    def used(self) -> dict[str, int]:
        """By all of them together, by UUID of a GPU or slice and by the latest reading; those that are told."""
        ...

    def holding(self, name: str) -> Holding | None:
        """Of a pool's engine, by the latest reading; None for one that is not on a GPU, or does not run."""
        ...


class HostProbe(Protocol):
    def facts(self) -> HostFacts: ...
