"""What NVML says of one GPU: facts that stay, and a sample that moves. Absent is None with a reason, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from agent.core.model import Value


class GpuFault(StrEnum):
    """Why a driver or one GPU cannot be read (gpu.md, Errors)."""

    DRIVER_ABSENT = "driver_absent"
    NO_GPU = "no_gpu"
    """The driver answers and lists nothing."""
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
    minor: int | None = None
    """N of the device node /dev/nvidiaN; the index need not be the same."""
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


_ABSENT_RETRY_S = (5.0, 15.0, 30.0, 60.0)
_BROKEN_RETRY_S = (0.0, 5.0, 15.0, 60.0)


def retry_delay_s(fault: GpuFault, failures: int) -> float:
    """Seconds to wait after the `failures`-th snapshot in a row (from 1) that failed as a whole.

    A missing driver or GPU may appear minutes after boot: look again, slowly. Anything else gets one new child at once,
    since that also loads a driver library that was replaced on disk; then the pauses grow.
    """
    steps = _ABSENT_RETRY_S if fault in {GpuFault.DRIVER_ABSENT, GpuFault.NO_GPU} else _BROKEN_RETRY_S
    return steps[min(failures, len(steps)) - 1]


def with_known(report: GpuReport, known: Mapping[str, Gpu]) -> GpuReport:
    """`report` plus every GPU of `known` (by UUID) that it does not list, marked with why it cannot be used now.

    A GPU that falls off the bus vanishes from the driver's list; a driver that hangs lists nothing at all.
    """
    listed = {gpu.uuid for gpu in report.gpus}
    fault = report.fault or GpuFault.GPU_LOST
    detail = (
        report.detail
        if report.fault
        else "The driver no longer lists this GPU. Reboot; if it comes back, check its power, seating and temperature"
    )
    missing = [
        msgspec.structs.replace(gpu, sample=GpuSample(), fault=fault, detail=detail)
        for uuid, gpu in known.items()
        if uuid not in listed
    ]
    gpus = sorted([*report.gpus, *missing], key=lambda gpu: gpu.index)
    return msgspec.structs.replace(report, gpus=tuple(gpus))
