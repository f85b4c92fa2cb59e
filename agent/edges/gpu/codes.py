"""NVML's return codes in plain words: which fault each is, and what the owner can do about a fault."""

from __future__ import annotations

from agent.core.gpu import GpuFault

# Numbers are ABI: nvmlReturn_t in nvml.h.
NOT_SUPPORTED = 3
NOT_FOUND = 6
FUNCTION_NOT_FOUND = 13
ARGUMENT_VERSION_MISMATCH = 25

_MEANING: dict[int, tuple[GpuFault, str]] = {
    1: (GpuFault.TRANSIENT, "the driver library is not initialised"),
    2: (GpuFault.UNSUPPORTED, "the driver rejects the question"),
    NOT_SUPPORTED: (GpuFault.UNSUPPORTED, "not supported by this card or driver"),
    4: (GpuFault.DENIED, "no permission"),
    NOT_FOUND: (GpuFault.UNSUPPORTED, "not found"),
    8: (GpuFault.TRANSIENT, "the card's external power cable is missing or too weak"),
    9: (GpuFault.DRIVER_ABSENT, "the driver's kernel module is not loaded"),
    10: (GpuFault.TRANSIENT, "the driver timed out"),
    11: (GpuFault.TRANSIENT, "the kernel has an interrupt problem with this GPU"),
    12: (GpuFault.DRIVER_ABSENT, "the driver library is not installed"),
    FUNCTION_NOT_FOUND: (GpuFault.UNSUPPORTED, "this driver is too old to tell"),
    14: (GpuFault.TRANSIENT, "the card's infoROM is corrupted"),
    15: (GpuFault.GPU_LOST, "the GPU has fallen off the bus"),
    16: (GpuFault.GPU_NEEDS_RESET, "the GPU needs a reset"),
    17: (GpuFault.DENIED, "the operating system blocked the request"),
    18: (GpuFault.DRIVER_MISMATCH, "driver library and kernel module have different versions"),
    20: (GpuFault.TRANSIENT, "the driver ran out of memory"),
    21: (GpuFault.UNSUPPORTED, "no reading yet"),
    ARGUMENT_VERSION_MISMATCH: (GpuFault.UNSUPPORTED, "this driver knows another version of the question"),
    26: (GpuFault.UNSUPPORTED, "this driver no longer answers the question"),
    27: (GpuFault.TRANSIENT, "the GPU is not ready"),
    28: (GpuFault.GPU_LOST, "the GPU is gone"),
    999: (GpuFault.TRANSIENT, "the driver failed for an unknown reason"),
}

_REMEDY: dict[GpuFault, str] = {
    GpuFault.DRIVER_ABSENT: "To use a GPU, install or load the NVIDIA driver; the agent looks again by itself",
    GpuFault.NO_GPU: "Check that the card is seated, powered, and handed to this machine or container",
    GpuFault.DRIVER_MISMATCH: "The driver was updated while in use: reboot, or reload the nvidia kernel modules",
    GpuFault.DRIVER_UNRESPONSIVE: "See `dmesg` for Xid lines; if the driver stays silent, reboot",
    GpuFault.WORKER_CRASHED: "Other GPU tools may crash as well: reinstall the driver or reboot if it goes on",
    GpuFault.GPU_LOST: "Reboot; if it comes back, check power, seating and temperature of the card",
    GpuFault.GPU_NEEDS_RESET: "Stop what uses this GPU and run `nvidia-smi --gpu-reset`, or reboot",
    GpuFault.DENIED: "Let this user open /dev/nvidia* (often: add it to the group `video`)",
    GpuFault.UNSUPPORTED: "Update the NVIDIA driver",
    GpuFault.TRANSIENT: "The agent tries again by itself",
}

WHOLE_DRIVER = frozenset({GpuFault.DRIVER_ABSENT, GpuFault.DRIVER_MISMATCH})
"""Faults that no other GPU escapes, whichever question met them."""

WHOLE_GPU = frozenset({GpuFault.GPU_LOST, GpuFault.GPU_NEEDS_RESET})
"""Faults of one GPU, whichever of its fields met them."""


def meaning(code: int) -> tuple[GpuFault, str]:
    """Fault and plain words of a return code; codes newer than this table are transient."""
    return _MEANING.get(code, (GpuFault.TRANSIENT, f"the driver answered with error {code}"))


def explain(fault: GpuFault, what: str) -> str:
    """One sentence of what happened and one of what to do."""
    return f"{what[:1].upper()}{what[1:]}. {_REMEDY[fault]}"
