"""How NVML is asked, and how an answer is believed. Only this file, `facts`, `readings`, `events` and `power`
import `pynvml`.

Pitfalls handled here, each seen in the field: an old driver raises NVMLLibraryMismatchError, which is no NVMLError;
NVMLError cannot be hashed or compared with anything but its like; strings may not decode; success is no proof of
support, so that sentinels and impossible numbers count as absent; the index is no identity.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from agent.core.gpu import GpuFault
from agent.edges.gpu import codes
from agent.edges.gpu.pci import nvidia_devices
from agent.edges.gpu.text import one_line

T = TypeVar("T")
Handle = Any
Question = tuple[tuple[str, ...], Callable[[Handle], Mapping[str, object]]]
"""The fields that one question answers, and how it is asked. An answer may be Absent for some of its fields."""

_TRY_OTHER = frozenset({codes.NOT_SUPPORTED, codes.FUNCTION_NOT_FOUND, codes.ARGUMENT_VERSION_MISMATCH})
U32_NONE = 0xFFFFFFFF
U64_NONE = 0xFFFFFFFFFFFFFFFF
"""What the driver writes for "not available" where it has no error for it."""
_NO_TEXT = frozenset({"", "0", "n/a", "[n/a]", "unknown", "[unknown error]", "none"})


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


def refusal(code: int) -> DriverError | GpuError | Absent:
    """What a return code other than success means for who asked."""
    fault, reason = codes.meaning(code)
    if fault in codes.WHOLE_DRIVER:
        return DriverError(fault, reason)
    return GpuError(fault, reason) if fault in codes.WHOLE_GPU else Absent(reason)


def ask(*calls: Callable[[], T]) -> T:
    """The answer of the first of `calls` that this driver knows. Raises what `refusal` makes of a refusal."""
    reason = ""
    for call in calls:
        try:
            return call()
        except pynvml.NVMLLibraryMismatchError:
            reason = codes.meaning(codes.FUNCTION_NOT_FOUND)[1]
        except UnicodeDecodeError:
            raise Absent("the driver's text does not decode") from None
        except pynvml.NVMLError as error:
            if error.value not in _TRY_OTHER:
                raise refusal(error.value) from error
            reason = codes.meaning(error.value)[1]
    raise Absent(reason)


def number(value: int, lowest: int = 0, highest: int = U32_NONE - 1) -> int:
    """`value` if it can be true; raises Absent otherwise."""
    if not lowest <= value <= highest:
        raise Absent(f"the driver answers {value}, which cannot be")
    return value


def text(function: Callable[..., Any], *args: object) -> str:
    """The text that `function` reads. Asks beneath the binding's decoder, which gives up on a single odd byte."""
    raw = ask(lambda: getattr(function, "__wrapped__", function)(*args))
    found = one_line(raw if isinstance(raw, bytes) else str(raw))
    if found.lower() in _NO_TEXT:
        raise Absent(f"the driver answers {found!r}" if found else "the driver answers nothing")
    return found


def one(field: str, answer: Callable[[Handle], object]) -> Question:
    """A question with a single answer."""
    return (field,), lambda handle: {field: answer(handle)}


def told(answer: Callable[[], T]) -> T | Absent:
    """The answer, or its absence as a value, so that it leaves its neighbours alone."""
    try:
        return answer()
    except Absent as reason:
        return reason


def pci_bus_id(handle: Handle) -> str:
    """Such as `00000000:3B:00.0`."""
    pci = ask(lambda: pynvml.nvmlDeviceGetPciInfo_v3(handle))
    return f"{pci.domain:08X}:{pci.bus:02X}:{pci.device:02X}.0"


def memory(handle: Handle) -> Any:
    """Version 2 tells `reserved` apart; version 1 counts it as used."""
    return ask(
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2),
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle),
    )


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
    return _or_empty(lambda: text(pynvml.nvmlSystemGetDriverVersion))


def cuda_version() -> str:
    """Newest CUDA that the driver runs, such as `12.8`; NVML counts 1000 per major and 10 per minor version."""
    return _or_empty(_cuda)


def count() -> int:
    """GPUs that the driver lists. Raises DriverError."""
    try:
        return int(ask(pynvml.nvmlDeviceGetCount))
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
    return _or_empty(lambda: text(pynvml.nvmlDeviceGetUUID, handle)) or _or_empty(lambda: f"PCI:{pci_bus_id(handle)}")


def collect(questions: Iterable[Question], handle: Handle, absent: dict[str, str]) -> dict[str, Any]:
    """Answers by field; what is not told goes to `absent` with its reason. Raises GpuError and DriverError."""
    found: dict[str, Any] = {}
    for fields, answers in questions:
        try:
            for field, answer in answers(handle).items():
                if isinstance(answer, Absent):
                    absent[field] = str(answer)
                else:
                    found[field] = answer
        except Absent as reason:
            absent |= dict.fromkeys(fields, str(reason))
    return found


def _or_empty(read: Callable[[], str]) -> str:
    try:
        return read()
    except Absent:
        return ""


def _cuda() -> str:
    number = ask(pynvml.nvmlSystemGetCudaDriverVersion_v2, pynvml.nvmlSystemGetCudaDriverVersion)
    return f"{number // 1000}.{number % 1000 // 10}"


def _load(libraries: tuple[str, ...]) -> ctypes.CDLL:
    failures: list[str] = []
    for library in libraries:
        try:
            return ctypes.CDLL(library)
        except OSError as error:
            failures.append(str(error))
    if cards := ", ".join(card.address for card in nvidia_devices()):
        what = f"this machine has an NVIDIA card ({cards}) but the driver library does not load: {failures[0]}"
    else:
        what = f"no NVIDIA driver here ({failures[0]}), and no NVIDIA card on the PCI bus"
    raise DriverError(GpuFault.DRIVER_ABSENT, one_line(what))


def _init_error(code: int) -> DriverError:
    fault, what = codes.meaning(code)
    version = Path("/proc/driver/nvidia/version")
    if fault is GpuFault.DRIVER_MISMATCH and version.is_file():
        what += f" (the kernel runs: {one_line(version.read_text(errors='replace').splitlines()[0])})"
    return DriverError(fault, what)
