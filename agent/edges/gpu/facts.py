"""What NVML tells of a GPU that stays, or that only its owner changes."""

from __future__ import annotations

import pynvml

from agent.core.gpu import MigSlice
from agent.edges.gpu.nvml import U64_NONE, Absent, Handle, Question, ask, memory, number, one, pci_bus_id, text, told

# nvml.h: NVML_DEVICE_ARCH_*
_ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
# nvml.h: nvmlGpuVirtualizationMode_t
_VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host_vgpu", 4: "host_vsga"}


def _architecture(handle: Handle) -> str:
    found = number(ask(lambda: pynvml.nvmlDeviceGetArchitecture(handle)))
    return _ARCHITECTURES.get(found, f"architecture {found}")


def _compute_capability(handle: Handle) -> str:
    major, minor = ask(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    return f"{number(major, 1)}.{number(minor)}"


def _virtualization(handle: Handle) -> str:
    mode = number(ask(lambda: pynvml.nvmlDeviceGetVirtualizationMode(handle)))
    return _VIRTUALIZATION.get(mode, f"mode {mode}")


def _threshold(kind: int, handle: Handle) -> int:
    return number(ask(lambda: pynvml.nvmlDeviceGetTemperatureThreshold(handle, kind)), 1, 200)


def _power_range(handle: Handle) -> dict[str, int]:
    lowest, highest = ask(lambda: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle))
    return {"power_limit_min_mw": number(lowest, 1), "power_limit_max_mw": number(highest, 1)}


def _power_limit(handle: Handle) -> int:
    return number(
        ask(
            lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle),
            lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle),
        )
    )


def slices(handle: Handle) -> dict[str, tuple[Handle, MigSlice]]:
    """The slices of a GPU that is cut, by UUID. Raises Absent."""
    slots = range(ask(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)))
    found = (_slice(handle, slot) for slot in slots)
    return {part.uuid: (inner, part) for inner, part in filter(None, found)}


def _slice(handle: Handle, slot: int) -> tuple[Handle, MigSlice] | None:
    """None for a slot that holds no slice."""
    try:
        part = ask(lambda: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
        return part, MigSlice(
            uuid=text(pynvml.nvmlDeviceGetUUID, part),
            name=text(pynvml.nvmlDeviceGetName, part),
            memory_total_bytes=number(memory(part).total, 1, U64_NONE - 1),
            gpu_instance=_id(lambda: pynvml.nvmlDeviceGetGpuInstanceId(part)),
            compute_instance=_id(lambda: pynvml.nvmlDeviceGetComputeInstanceId(part)),
        )
    except Absent:
        return None


def _id(call: object) -> int | None:
    found = told(lambda: number(ask(call)))  # type: ignore[arg-type]
    return None if isinstance(found, Absent) else found


FACTS: tuple[Question, ...] = (
    one("pci_bus_id", pci_bus_id),
    one("name", lambda h: text(pynvml.nvmlDeviceGetName, h)),
    one("serial", lambda h: text(pynvml.nvmlDeviceGetSerial, h)),
    one("compute_capability", _compute_capability),
    one("architecture", _architecture),
    one("cores", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetNumGpuCores(h)), 1)),
    one("vbios", lambda h: text(pynvml.nvmlDeviceGetVbiosVersion, h)),
    one("numa_node", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetNumaNodeId(h)))),
    one("minor", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetMinorNumber(h)))),
    one("memory_total_bytes", lambda h: number(memory(h).total, 1, U64_NONE - 1)),
    one(
        "bar1_total_bytes",
        lambda h: number(ask(lambda: pynvml.nvmlDeviceGetBAR1MemoryInfo(h)).bar1Total, 1, U64_NONE - 1),
    ),
    one("slowdown_temperature_c", lambda h: _threshold(pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, h)),
    one("shutdown_temperature_c", lambda h: _threshold(pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN, h)),
    (("power_limit_min_mw", "power_limit_max_mw"), _power_range),
    one("pcie_generation_max", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetMaxPcieLinkGeneration(h)), 1)),
    one("pcie_width_max", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetMaxPcieLinkWidth(h)), 1)),
    one("virtualization", _virtualization),
)
"""What stays while the driver runs."""

SETTINGS: tuple[Question, ...] = (
    one("power_limit_mw", _power_limit),
    one("persistence", lambda h: bool(number(ask(lambda: pynvml.nvmlDeviceGetPersistenceMode(h)), 0, 1))),
    one("ecc", lambda h: bool(number(ask(lambda: pynvml.nvmlDeviceGetEccMode(h))[0], 0, 1))),
    one("mig_enabled", lambda h: bool(number(ask(lambda: pynvml.nvmlDeviceGetMigMode(h))[0], 0, 1))),
)
"""What the owner can change while the driver runs."""
