"""What NVML says of one GPU: facts that stay, and a sample that moves. Absent is None with a reason, never 0."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.core.model import Value


class GpuFault(StrEnum):
    """Why a driver or one GPU cannot be read (gpu.md, Errors)."""

    DRIVER_ABSENT = "driver_absent"
    DRIVER_MISMATCH = "driver_mismatch"
    DRIVER_UNRESPONSIVE = "driver_unresponsive"
    WORKER_CRASHED = "worker_crashed"
    GPU_LOST = "gpu_lost"
    GPU_NEEDS_RESET = "gpu_needs_reset"
    UNSUPPORTED = "unsupported"
    DENIED = "denied"
    TRANSIENT = "transient"


class MigSlice(Value):
    """One MIG device."""

    uuid: str
    name: str
    memory_total_bytes: int


class GpuSample(Value):
    """Readings of the 1 s tier."""

    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    power_mw: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: int | None = None
    processes: int | None = None
    """Compute, graphics and MPS processes on this GPU."""


class Gpu(Value):
    """One GPU. `uuid` is its identity; the index is not."""

    uuid: str
    name: str
    index: int
    pci_bus_id: str = ""
    serial: str | None = None
    compute_capability: str | None = None
    architecture: str | None = None
    cores: int | None = None
    vbios: str | None = None
    numa_node: int | None = None
    memory_total_bytes: int | None = None
    power_limit_mw: int | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    mig_enabled: bool | None = None
    mig: tuple[MigSlice, ...] = ()
    sample: GpuSample = GpuSample()
    absent: dict[str, str] = msgspec.field(default_factory=dict)
    """Field name → reason, for every field that this driver or card does not tell."""
    fault: GpuFault | None = None
    """Set when the GPU is listed but cannot be used; `detail` says why."""
    detail: str = ""


class GpuReport(Value):
    """One snapshot of the driver. A node without GPUs is valid: then `fault` and `detail` say why."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""
    fault: GpuFault | None = None
    detail: str = ""
    """What happened and what the owner can do, in plain words."""
