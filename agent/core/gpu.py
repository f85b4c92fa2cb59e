"""What NVML says of one GPU: facts that stay, and a sample that moves. Absent is None with a reason, never 0."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntFlag, StrEnum

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
    gpu_instance: int | None = None
    compute_instance: int | None = None
    """Ids below `/proc/driver/nvidia/capabilities`, which name the device nodes of the slice."""


class GpuProcess(Value):
    """One process that uses a GPU. `pid` is the host's."""

    pid: int
    kinds: tuple[str, ...]
    """Lists that name it: `compute`, `graphics`, `mps`."""
    memory_bytes: int | None = None
    """None where the driver does not tell, as on Windows' driver model."""
    gpu_instance: int | None = None
    """Of the MIG slice that it uses."""


class SliceSample(Value):
    """Memory of one MIG slice, which tells nothing else of its own."""

    uuid: str
    memory_used_bytes: int
    memory_free_bytes: int


class GpuSample(Value):
    """Readings of the 1 s tier."""

    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    utilisation_percent: int | None = None
    memory_utilisation_percent: int | None = None
    """Share of time in which memory was read or written."""
    temperature_c: int | None = None
    memory_temperature_c: int | None = None
    power_mw: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: int | None = None
    """Bits of nvmlClocksEventReasons; see `Throttle`."""
    processes: int | None = None
    """Compute, graphics and MPS processes on this GPU."""
    users: tuple[GpuProcess, ...] = ()
    """Those processes; means nothing while `processes` is None."""
    slices: tuple[SliceSample, ...] = ()
    """Of a GPU that is cut, those slices that tell their memory."""


class GpuCondition(Value):
    """Readings of the 10 s tier: wear, links, counters. These start with the driver unless said otherwise."""

    energy_mj: int | None = None
    power_throttled_ns: int | None = None
    thermal_throttled_ns: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    """Double-bit errors since the driver was loaded."""
    rows_remapped_corrected: int | None = None
    rows_remapped_uncorrected: int | None = None
    """Rows of memory that were replaced, over the card's life."""
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    recovery_action: int | None = None
    """What the driver asks for: 0 nothing, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset (NVML field 230)."""
    pcie_generation: int | None = None
    pcie_width: int | None = None
    """Of the link now; judge it under load alone, since an idle card slows its link down."""
    pcie_replays: int | None = None
    nvlinks_active: int | None = None
    nvlinks: int | None = None
    fabric_state: int | None = None
    """1 not started, 2 in progress, 3 completed."""


class Throttle(IntFlag):
    """Why clocks are below what was asked: nvmlClocksEventReasons of nvml.h."""

    IDLE = 0x1
    APPLICATION_CLOCKS = 0x2
    SOFTWARE_POWER_CAP = 0x4
    HARDWARE_SLOWDOWN = 0x8
    SYNC_BOOST = 0x10
    SOFTWARE_THERMAL = 0x20
    HARDWARE_THERMAL = 0x40
    HARDWARE_POWER_BRAKE = 0x80
    DISPLAY_CLOCKS = 0x100


class GpuEventKind(StrEnum):
    """What a driver or kernel reported unasked."""

    XID = "xid"
    SXID = "sxid"
    """Of an NVSwitch."""
    ECC_DOUBLE_BIT = "ecc_double_bit"
    MIG_CHANGED = "mig_changed"
    UNAVAILABLE = "unavailable"
    RECOVERY_ACTION = "recovery_action"
    FELL_OFF_THE_BUS = "fell_off_the_bus"


class GpuEvent(Value):
    """One such report. NVML and the kernel's log may both tell of the same fault."""

    kind: GpuEventKind
    source: str
    """`nvml` or `kernel`."""
    gpu_uuid: str = ""
    """Empty where only the bus address is told."""
    pci_bus_id: str = ""
    """As the source writes it, such as `0000:3b:00` or `00000000:3B:00.0`; compare by `bus_address`."""
    code: int | None = None
    """Number of an Xid or SXid."""
    text: str = ""
    """The kernel's line, cleaned."""
    boot_s: float | None = None
    """Seconds since boot, where told: old lines are told again to an agent that starts later."""


class PciGpu(Value):
    """One NVIDIA display or 3D controller as the kernel lists it, known without any driver of NVIDIA's."""

    address: str
    """Such as `0000:3b:00.0`."""
    driver: str | None = None
    """Kernel driver that is bound: `nvidia`, `vfio-pci` for one handed to a virtual machine, `nouveau`, or none."""
    answers: bool = True
    """False when it no longer answers on the bus."""
    device: str = ""
    """Device id, four hex digits: which chip and board it is, by its own word."""
    bar_bytes: tuple[int, ...] = ()
    """Sizes of its windows (BARs)."""


class KernelCard(Value):
    """One GPU as the driver's kernel module tells it in /proc/driver/nvidia/gpus; empty where it does not tell."""

    address: str
    name: str = ""
    uuid: str = ""
    vbios: str = ""


class KernelFacts(Value):
    """What /proc tells of NVIDIA's driver."""

    version: str = ""
    """Of the kernel module; empty where there is none."""
    cards: tuple[KernelCard, ...] = ()
    wsl: bool = False
    """A kernel of WSL 2: the driver is Windows', and neither it nor the bus shows here."""


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
    bar1_total_bytes: int | None = None
    """Size of the window through which the processor sees the memory."""
    slowdown_temperature_c: int | None = None
    shutdown_temperature_c: int | None = None
    power_limit_min_mw: int | None = None
    power_limit_max_mw: int | None = None
    pcie_generation_max: int | None = None
    pcie_width_max: int | None = None
    virtualization: str | None = None
    """`passthrough`, `vgpu`, `host_vgpu`, `host_vsga`; None on bare metal or where it is not told."""
    power_limit_mw: int | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    mig_enabled: bool | None = None
    mig: tuple[MigSlice, ...] = ()
    sample: GpuSample = GpuSample()
    condition: GpuCondition = GpuCondition()
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
    events: tuple[GpuEvent, ...] = ()
    """New since the snapshot before."""
    bus: tuple[PciGpu, ...] = ()
    """NVIDIA GPUs on the PCI bus, whether or not the driver lists them."""
    module: str = ""
    """Version of the kernel module that runs; empty where the kernel does not tell."""
    installed: str = ""
    """Version of the driver library on the disk: an upgrade changes it under a driver that runs."""
    kernel: KernelFacts | None = None
    """None where nobody looked."""
    absent: dict[str, str] = msgspec.field(default_factory=dict)
    """Source (`events`, `kernel_log`) → why it tells nothing here."""


MOVING = frozenset({*GpuSample.__struct_fields__, *GpuCondition.__struct_fields__})
"""Names of all readings, as they stand in `Gpu.absent`."""


def still(gpu: Gpu) -> Gpu:
    """`gpu` without what moves by itself: its facts and settings."""
    lasting = {name: reason for name, reason in gpu.absent.items() if name not in MOVING}
    return msgspec.structs.replace(gpu, sample=GpuSample(), condition=GpuCondition(), absent=lasting)


_ADDRESS = re.compile(r"\b([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})(?:\.[0-7])?\b")
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
        msgspec.structs.replace(gpu, sample=GpuSample(), condition=GpuCondition(), fault=fault, detail=detail)
        for uuid, gpu in known.items()
        if uuid not in listed
    ]
    gpus = sorted([*report.gpus, *missing], key=lambda gpu: gpu.index)
    return msgspec.structs.replace(report, gpus=tuple(gpus))


def units(report: GpuReport) -> tuple[str, ...]:
    """UUIDs of what an engine can be placed on now: whole GPUs, and the slices of one that is cut, which has no other
    use. A GPU that only its bus address names has no place."""
    whole = [(gpu.uuid,) if not gpu.mig_enabled else tuple(part.uuid for part in gpu.mig) for gpu in _sound(report)]
    return tuple(uuid for uuids in whole for uuid in uuids)


def _sound(report: GpuReport) -> list[Gpu]:
    return [gpu for gpu in report.gpus if gpu.fault is None and gpu.uuid.startswith("GPU-")]


class GpuPlace(Value):
    """Where one GPU or MIG slice is among the device nodes."""

    minor: int
    """N of /dev/nvidiaN."""
    gpu_instance: int | None = None
    compute_instance: int | None = None
    """Both of a slice, none of a whole GPU."""


def place_of(report: GpuReport, uuid: str) -> GpuPlace | None:
    """The place of the GPU or slice `uuid`; None when the driver does not list it or does not tell where it is."""
    for gpu in report.gpus:
        if gpu.minor is None:
            continue
        if gpu.uuid == uuid:
            return GpuPlace(minor=gpu.minor)
        for part in gpu.mig:
            if part.uuid == uuid and part.gpu_instance is not None and part.compute_instance is not None:
                instances = {"gpu_instance": part.gpu_instance, "compute_instance": part.compute_instance}
                return GpuPlace(minor=gpu.minor, **instances)
    return None


def bus_address(text: str) -> str:
    """A PCI address in one form: `00000000:3B:00.0`, `0000:3b:00.0` and `PCI:0000:3b:00` are `0000:3b:00`.

    Empty for what is none.
    """
    found = _ADDRESS.search(text)
    if found is None:
        return ""
    domain, bus, device = (int(part, 16) for part in found.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}"
