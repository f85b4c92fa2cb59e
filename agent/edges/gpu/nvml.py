"""Every question the agent asks NVML, and how to believe the answer. The only importer of `pynvml`; see `worker`.

Pitfalls handled here, each seen in the field: an old driver raises NVMLLibraryMismatchError, which is no NVMLError;
NVMLError cannot be hashed or compared with anything but its like; strings may not decode; success is no proof of
support, so that sentinels and impossible numbers count as absent; the index is no identity.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from agent.core.gpu import GpuFault, MigSlice
from agent.edges.gpu import codes
from agent.edges.gpu.pci import nvidia_devices
from agent.edges.gpu.text import one_line

T = TypeVar("T")
Handle = Any
Question = Callable[[Handle], object]

_TRY_OTHER = frozenset({codes.NOT_SUPPORTED, codes.FUNCTION_NOT_FOUND, codes.ARGUMENT_VERSION_MISMATCH})
_U32_NONE = 0xFFFFFFFF
_U64_NONE = 0xFFFFFFFFFFFFFFFF
_NO_TEXT = frozenset({"", "0", "n/a", "[n/a]", "unknown", "[unknown error]", "none"})

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


class DriverError(Exception):
    """Nothing can be read: `fault` says which way, the message why and what to do."""

    def __init__(self, fault: GpuFault, what: str) -> None:
        super().__init__(codes.explain(fault, what))
        self.fault = fault


class GpuError(Exception):
    """This GPU cannot be read any further; the others can."""

    def __init__(self, fault: GpuFault, what: str) -> None:
        super().__init__(what)
        self.fault = fault


class Absent(Exception):
    """This field is not told; the message says why."""


def _ask(*calls: Callable[[], T]) -> T:
    """The answer of the first of `calls` that this driver knows."""
    reason = ""
    for call in calls:
        try:
            return call()
        except pynvml.NVMLLibraryMismatchError:
            reason = codes.meaning(codes.FUNCTION_NOT_FOUND)[1]
        except UnicodeDecodeError:
            raise Absent("the driver's text does not decode") from None
        except pynvml.NVMLError as error:
            fault, reason = codes.meaning(error.value)
            if error.value in _TRY_OTHER:
                continue
            if fault in codes.WHOLE_DRIVER:
                raise DriverError(fault, reason) from error
            if fault in codes.WHOLE_GPU:
                raise GpuError(fault, reason) from error
            raise Absent(reason) from error
    raise Absent(reason)


def _number(value: int, lowest: int = 0, highest: int = _U32_NONE - 1) -> int:
    if not lowest <= value <= highest:
        raise Absent(f"the driver answers {value}, which cannot be")
    return value


def _bytes(value: int) -> int:
    return _number(value, 1, _U64_NONE - 1)


def _text(function: Callable[..., Any], *args: object) -> str:
    """The text that `function` reads. Asks beneath the binding's decoder, which gives up on a single odd byte."""
    raw = _ask(lambda: getattr(function, "__wrapped__", function)(*args))
    text = one_line(raw if isinstance(raw, bytes) else str(raw))
    if text.lower() in _NO_TEXT:
        raise Absent(f"the driver answers {text!r}" if text else "the driver answers nothing")
    return text


def _pci(handle: Handle) -> str:
    pci = _ask(lambda: pynvml.nvmlDeviceGetPciInfo_v3(handle))
    return f"{pci.domain:08X}:{pci.bus:02X}:{pci.device:02X}.0"


def _architecture(handle: Handle) -> str:
    number = _number(_ask(lambda: pynvml.nvmlDeviceGetArchitecture(handle)))
    return _ARCHITECTURES.get(number, f"architecture {number}")


def _compute_capability(handle: Handle) -> str:
    major, minor = _ask(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    return f"{_number(major, 1)}.{_number(minor)}"


def _memory(handle: Handle) -> Any:
    """Version 2 tells `reserved` apart; version 1 counts it as used."""
    return _ask(
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2),
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle),
    )


def _power_limit(handle: Handle) -> int:
    return _number(
        _ask(
            lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle),
            lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle),
        )
    )


def _temperature(handle: Handle) -> int:
    return _number(
        _ask(
            lambda: pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU),
            lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        ),
        -50,
        200,
    )


def _throttle_reasons(handle: Handle) -> int:
    return _number(
        _ask(
            lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
            lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        ),
        highest=_U64_NONE - 1,
    )


def _pids(handle: Handle, kind: str) -> set[int]:
    newer = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")
    older = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_v2")
    return {process.pid for process in _ask(lambda: newer(handle), lambda: older(handle))}


def _processes(handle: Handle) -> int:
    """Distinct pids of all kinds that the driver lists; absent when it lists no kind."""
    pids: set[int] = set()
    refusals: list[Absent] = []
    for kind in ("Compute", "Graphics", "MPSCompute"):
        try:
            pids |= _pids(handle, kind)
        except Absent as refusal:
            refusals.append(refusal)
    if len(refusals) == 3:
        raise refusals[0]
    return len(pids)


def _mig_slices(handle: Handle) -> tuple[MigSlice, ...]:
    slots = range(_ask(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)))
    return tuple(filter(None, (_mig_slice(handle, slot) for slot in slots)))


def _mig_slice(handle: Handle, slot: int) -> MigSlice | None:
    """None for a slot that holds no slice."""
    try:
        part = _ask(lambda: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
        uuid, name = _text(pynvml.nvmlDeviceGetUUID, part), _text(pynvml.nvmlDeviceGetName, part)
        return MigSlice(uuid=uuid, name=name, memory_total_bytes=_bytes(_memory(part).total))
    except Absent:
        return None


FACTS: Mapping[str, Question] = {
    "pci_bus_id": _pci,
    "name": lambda h: _text(pynvml.nvmlDeviceGetName, h),
    "serial": lambda h: _text(pynvml.nvmlDeviceGetSerial, h),
    "compute_capability": _compute_capability,
    "architecture": _architecture,
    "cores": lambda h: _number(_ask(lambda: pynvml.nvmlDeviceGetNumGpuCores(h)), 1),
    "vbios": lambda h: _text(pynvml.nvmlDeviceGetVbiosVersion, h),
    "numa_node": lambda h: _number(_ask(lambda: pynvml.nvmlDeviceGetNumaNodeId(h))),
    "minor": lambda h: _number(_ask(lambda: pynvml.nvmlDeviceGetMinorNumber(h))),
    "memory_total_bytes": lambda h: _bytes(_memory(h).total),
}
"""What stays while the driver runs."""

SETTINGS: Mapping[str, Question] = {
    "power_limit_mw": _power_limit,
    "persistence": lambda h: bool(_number(_ask(lambda: pynvml.nvmlDeviceGetPersistenceMode(h)), 0, 1)),
    "ecc": lambda h: bool(_number(_ask(lambda: pynvml.nvmlDeviceGetEccMode(h))[0], 0, 1)),
    "mig_enabled": lambda h: bool(_number(_ask(lambda: pynvml.nvmlDeviceGetMigMode(h))[0], 0, 1)),
}
"""What the owner can change while the driver runs."""

LAYOUT: Mapping[str, Question] = {"mig": _mig_slices}
"""To be asked where MIG is enabled."""

SAMPLE: Mapping[str, Question] = {
    "memory_used_bytes": lambda h: _number(_memory(h).used, 0, _U64_NONE - 1),
    "memory_free_bytes": lambda h: _number(_memory(h).free, 0, _U64_NONE - 1),
    "utilisation_percent": lambda h: _number(_ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(h)).gpu, 0, 100),
    "temperature_c": _temperature,
    "power_mw": lambda h: _number(_ask(lambda: pynvml.nvmlDeviceGetPowerUsage(h))),
    "sm_clock_mhz": lambda h: _number(_ask(lambda: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_SM))),
    "memory_clock_mhz": lambda h: _number(_ask(lambda: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_MEM))),
    "throttle_reasons": _throttle_reasons,
    "processes": _processes,
}
"""What moves."""


def open_driver(libraries: tuple[str, ...]) -> None:
    """Load the first of `libraries` that is there, unless one is loaded, and initialise it. Raises DriverError."""
    if pynvml.nvmlLib is None:
        pynvml.nvmlLib = _load(libraries)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _init_error(error.value) from error


def driver_version() -> str:
    """Empty when it is not told."""
    return _or_empty(lambda: _text(pynvml.nvmlSystemGetDriverVersion))


def cuda_version() -> str:
    """Newest CUDA that the driver runs, such as `12.8`; NVML counts 1000 per major and 10 per minor version."""
    return _or_empty(_cuda)


def count() -> int:
    """GPUs that the driver lists. Raises DriverError."""
    try:
        return int(_ask(pynvml.nvmlDeviceGetCount))
    except (Absent, GpuError) as error:
        raise DriverError(GpuFault.TRANSIENT, f"the driver does not count its GPUs: {error}") from error


def handle_of(index: int) -> Handle:
    """Raises GpuError when this GPU cannot be used, DriverError when none can."""
    try:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        fault, what = codes.meaning(error.value)
        raise (DriverError if fault in codes.WHOLE_DRIVER else GpuError)(fault, what) from error


def identity_of(handle: Handle) -> str:
    """The UUID; `PCI:` and the bus address where the driver has none; empty where it has neither."""
    return _or_empty(lambda: _text(pynvml.nvmlDeviceGetUUID, handle)) or _or_empty(lambda: f"PCI:{_pci(handle)}")


def collect(questions: Mapping[str, Question], handle: Handle, absent: dict[str, str]) -> dict[str, Any]:
    """Answers by field; what is not told goes to `absent` with its reason. Raises GpuError and DriverError."""
    found: dict[str, Any] = {}
    for field, question in questions.items():
        try:
            found[field] = question(handle)
        except Absent as reason:
            absent[field] = str(reason)
    return found


def _or_empty(read: Callable[[], str]) -> str:
    try:
        return read()
    except Absent:
        return ""


def _cuda() -> str:
    number = _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2, pynvml.nvmlSystemGetCudaDriverVersion)
    return f"{number // 1000}.{number % 1000 // 10}"


def _load(libraries: tuple[str, ...]) -> ctypes.CDLL:
    failures: list[str] = []
    for library in libraries:
        try:
            return ctypes.CDLL(library)
        except OSError as error:
            failures.append(str(error))
    cards = nvidia_devices()
    if cards:
        what = (
            f"this machine has an NVIDIA card ({', '.join(cards)}) but the driver library does not load: {failures[0]}"
        )
    else:
        what = f"no NVIDIA driver here ({failures[0]}), and no NVIDIA card on the PCI bus"
    raise DriverError(GpuFault.DRIVER_ABSENT, one_line(what))


def _init_error(code: int) -> DriverError:
    fault, what = codes.meaning(code)
    version = Path("/proc/driver/nvidia/version")
    if fault is GpuFault.DRIVER_MISMATCH and version.is_file():
        what += f" (the kernel runs: {one_line(version.read_text(errors='replace').splitlines()[0])})"
    return DriverError(fault, what)
