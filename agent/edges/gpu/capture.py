"""Writes down what a real driver answers, in the language of the fake driver's scenarios.

A program of its own, as the probe's child is, since the driver may hang: `python -m agent.edges.gpu.capture [LIBRARY]`.
A key is NVML's name without `nvmlDeviceGet`; `!NAME` is an error; a key that is missing answers "not supported". UUIDs
and serial numbers are hashed: who reads the file learns of no machine.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import re
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pynvml

from agent import __version__
from agent.core.errors import AgentError
from agent.edges.gpu import nvml
from agent.edges.gpu.child import worker_environment
from agent.edges.gpu.reader import LIBRARIES
from agent.edges.gpu.text import one_line

DEADLINE_S = 120.0
"""A few hundred questions to each GPU; a driver without persistence mode opens for seconds first."""
_ROUNDS = 5
"""Times that each question is asked for its latency."""
_SLOWEST = 12
_BATCH = 32
"""Fields in one call."""

_ERRORS = {getattr(pynvml, name): name[11:] for name in dir(pynvml) if name.startswith("NVML_ERROR_")}
_UNTOLD = frozenset({"version", "sensorType", "referenceTime"})
"""Members of structures that the caller sets, or that mean nothing later."""
_TEXT_SAFE = re.compile(rb"[^A-Za-z0-9 ._:/()\[\]*,'-]")

_TEXTS = ("Name", "VbiosVersion", "BoardPartNumber", "InforomImageVersion", "GspFirmwareVersion")
_PLAIN = (
    *("MinorNumber", "NumaNodeId", "Architecture", "CudaComputeCapability", "NumGpuCores", "Brand", "BoardId"),
    *("MemoryBusWidth", "VirtualizationMode", "MaxMigDeviceCount", "MigMode", "EccMode", "ComputeMode"),
    *("PersistenceMode", "DisplayMode", "DisplayActive", "PowerManagementMode", "PowerManagementLimit"),
    *("PowerManagementDefaultLimit", "PowerManagementLimitConstraints", "EnforcedPowerLimit", "PowerUsage"),
    *("TotalEnergyConsumption", "PerformanceState", "FanSpeed", "NumFans", "UtilizationRates", "EncoderUtilization"),
    *("DecoderUtilization", "MemoryInfo", "BAR1MemoryInfo", "CurrPcieLinkGeneration", "CurrPcieLinkWidth"),
    *("MaxPcieLinkGeneration", "MaxPcieLinkWidth", "GpuMaxPcieLinkGeneration", "PcieReplayCounter", "PcieSpeed"),
    *("RemappedRows", "RowRemapperHistogram", "SupportedEventTypes", "CurrentClocksEventReasons"),
    *("CurrentClocksThrottleReasons", "SupportedClocksEventReasons"),
)
_ASKED = {"TemperatureThreshold": range(8), "ClockInfo": range(4), "MaxClockInfo": range(4), "NvLinkState": range(18)}
_SLICE = ("MemoryInfo", "GpuInstanceId", "ComputeInstanceId")
_LISTS = ("Compute", "Graphics", "MPSCompute")


def captured(library: Path | None, deadline_s: float = DEADLINE_S) -> str:
    """The scenario of this machine's driver, asked in a process of its own. Raises AgentError."""
    command = [sys.executable, "-P", "-s", "-m", "agent.edges.gpu.capture", *([str(library)] if library else [])]
    # Not `with`: that would wait for a process that hangs inside the driver, and may never end.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=worker_environment(), cwd="/", text=True
    )
    try:
        scenario, stderr = child.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired as error:
        child.kill()
        raise AgentError(f"the driver has not answered for {deadline_s:g} s", remedy="See `dmesg` for Xid lines") from (
            error
        )
    if child.returncode:
        last = stderr.strip().splitlines() or [f"status {child.returncode}"]
        raise AgentError(f"the driver could not be asked: {one_line(last[-1])}")
    return scenario


class Capture:
    """Asks an opened driver everything. Raises DriverError when it fails as a whole."""

    def __init__(self) -> None:
        self._took: dict[str, list[float]] = {}

    def lines(self) -> Iterator[str]:
        """The scenario. Ends with comments of how long the slowest questions took."""
        yield from _preamble()
        yield "[system]"
        for name in ("DriverVersion", "NVMLVersion"):
            yield from self._line(name, lambda name=name: _raw(getattr(pynvml, f"nvmlSystemGet{name}")))  # type: ignore[misc]
        yield from self._line("CudaDriverVersion", pynvml.nvmlSystemGetCudaDriverVersion_v2)
        for index in range(nvml.count()):
            yield from self._gpu(index)
        yield "# Slowest questions, median in microseconds: " + ", ".join(self._slowest())

    def _gpu(self, index: int) -> Iterator[str]:
        yield f"[gpu{index}]"
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            yield from ("[fault]", "fn = nvmlDeviceGetHandleByIndex*", f"gpu = {index}", f"ret = {_named(error.value)}")
            return
        yield from self._identity(handle)
        yield from self._pci(handle)
        for name in _TEXTS:
            yield from self._line(name, _asking(name, handle, text=True))
        for name in _PLAIN:
            yield from self._line(name, _asking(name, handle))
        yield from self._line("MemoryInfo_v2", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2))
        yield from self._line("Temperature.0", lambda: pynvml.nvmlDeviceGetTemperature(handle, 0))
        for name, numbers in _ASKED.items():
            for number in numbers:
                yield from self._line(f"{name}.{number}", _asking(name, handle, number))
        yield from self._line("GpuFabricInfo", lambda: _fabric(handle))
        yield from self._fields(handle)
        yield from self._slices(index, handle)
        yield from self._processes(index, handle)

    def _identity(self, handle: Any) -> Iterator[str]:
        """The serial number has too few digits to hide behind a hash alone, so the UUID is hashed with it."""
        whole: list[bytes] = []

        def identity() -> bytes:
            whole.append(_raw(pynvml.nvmlDeviceGetUUID, handle))
            return hidden_uuid(whole[-1])

        def serial() -> bytes:
            found = _raw(pynvml.nvmlDeviceGetSerial, handle)
            secret = hashlib.sha256(b"".join(whole[:1]) + found).hexdigest()
            return str(int(secret, 16))[: len(found)].encode() if found.isdigit() and found.strip(b"0") else found

        yield from self._line("UUID", identity)
        yield from self._line("Serial", serial)

    def _pci(self, handle: Any) -> Iterator[str]:
        pci: list[Any] = []

        def bus_id() -> bytes:
            pci[:] = [pynvml.nvmlDeviceGetPciInfo_v3(handle)]
            return f"{pci[0].domain:08X}:{pci[0].bus:02X}:{pci[0].device:02X}.0".encode()

        yield from self._line("PciInfo", bus_id)
        if pci:
            yield f"PciDeviceId = {pci[0].pciDeviceId:#010x}"
            yield f"PciSubSystemId = {pci[0].pciSubSystemId:#010x}"

    def _fields(self, handle: Any) -> Iterator[str]:
        numbers = sorted({value for name, value in vars(pynvml).items() if name.startswith("NVML_FI_DEV_")})
        for start in range(0, len(numbers), _BATCH):
            try:
                entries = pynvml.nvmlDeviceGetFieldValues(handle, numbers[start : start + _BATCH])
            except pynvml.NVMLError as error:
                yield f"# fields from {numbers[start]} on: {_named(error.value)}"
                continue
            for entry in entries:
                if entry.nvmlReturn == 0:
                    yield f"Field.{entry.fieldId} = {_field(entry)}"
                elif entry.nvmlReturn != pynvml.NVML_ERROR_NOT_SUPPORTED:
                    yield f"Field.{entry.fieldId} = !{_named(entry.nvmlReturn)}"

    def _slices(self, index: int, handle: Any) -> Iterator[str]:
        try:
            slots = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
        except pynvml.NVMLError:
            return
        for slot in slots:
            try:
                part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
            except pynvml.NVMLError:  # no slice here
                continue
            yield f"[mig{index}.{slot}]"
            yield from self._line("Name", _asking("Name", part, text=True))
            yield from self._line("UUID", lambda part=part: hidden_uuid(_raw(pynvml.nvmlDeviceGetUUID, part)))  # type: ignore[misc]
            for name in _SLICE:
                yield from self._line(name, _asking(name, part))
            yield from self._line(
                "MemoryInfo_v2",
                lambda part=part: pynvml.nvmlDeviceGetMemoryInfo(part, pynvml.nvmlMemory_v2),  # type: ignore[misc]
            )

    def _processes(self, index: int, handle: Any) -> Iterator[str]:
        """Sections of their own come last. A list that is refused is a key of the GPU's, reopened for it."""
        refused, listed = [], []
        for kind in _LISTS:
            name = f"{kind}RunningProcesses"
            try:
                listed += [(kind, entry) for entry in _list(kind, handle)]
            except pynvml.NVMLError as error:
                refused.append(f"{name} = !{_named(error.value)}")
        if refused:
            yield from (f"[gpu{index}]", *refused)
        for kind, entry in listed:
            memory = nvml.U64_NONE if entry.usedGpuMemory is None else entry.usedGpuMemory
            yield from ("[process]", f"gpu = {index}", f"pid = {entry.pid}", f"kind = {kind}", f"memory = {memory}")
            if (instance := getattr(entry, "gpuInstanceId", nvml.U32_NONE)) != nvml.U32_NONE:
                yield f"instance = {instance}"

    def _line(self, key: str, ask: Callable[[], Any]) -> Iterator[str]:
        """Nothing for what is not supported: a key that is missing says so."""
        answer = b""
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            answer = _answer(ask)
            self._took.setdefault(key, []).append((time.perf_counter() - began) * 1e6)
        if answer != b"!NOT_SUPPORTED":
            yield f"{key} = {answer.decode()}"

    def _slowest(self) -> Iterator[str]:
        medians = {key: statistics.median(took) for key, took in self._took.items()}
        for key in sorted(medians, key=lambda key: -medians[key])[:_SLOWEST]:
            yield f"{key} {medians[key]:.0f}"


def hidden_uuid(name: bytes) -> bytes:
    """Another UUID of the same kind, always the same for the same one: `GPU-…`, `MIG-…`."""
    kind, _, _ = name.partition(b"-")
    return kind + b"-" + str(uuid.UUID(bytes=hashlib.sha256(name).digest()[:16], version=4)).encode()


def _preamble() -> Iterator[str]:
    day = datetime.now(UTC).date().isoformat()
    yield f"# Captured from a real driver on {day} by gpu-agent {__version__}, nvidia-ml-py on {platform.machine()}."
    yield "# UUIDs and serial numbers are hashed."


def _asking(name: str, handle: Any, *numbers: int, text: bool = False) -> Callable[[], Any]:
    def ask() -> Any:
        function = getattr(pynvml, f"nvmlDeviceGet{name}", None)
        if function is None:  # a binding older than ours
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return _raw(function, handle) if text else function(handle, *numbers)

    return ask


def _raw(function: Callable[..., Any], *arguments: Any) -> bytes:
    """Text as the driver wrote it: the binding's decoder gives up on a single odd byte."""
    found = getattr(function, "__wrapped__", function)(*arguments)
    return found if isinstance(found, bytes) else str(found).encode()


def _list(kind: str, handle: Any) -> list[Any]:
    try:
        found = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")(handle)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise
        found = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_v2")(handle)
    return list(found)


def _fabric(handle: Any) -> tuple[int, int]:
    info = pynvml.c_nvmlGpuFabricInfoV_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    return info.state, info.status


def _field(entry: Any) -> int:
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    return int(getattr(entry.value, members[min(entry.valueType, len(members) - 1)]))


def _answer(ask: Callable[[], Any]) -> bytes:
    try:
        found = ask()
    except pynvml.NVMLLibraryMismatchError:
        return b"!FUNCTION_NOT_FOUND"
    except pynvml.NVMLError as error:
        return b"!" + _named(error.value).encode()
    if isinstance(found, bytes):
        return _TEXT_SAFE.sub(lambda odd: b"\\x%02x" % ord(odd[0]), found)
    return _flat(found).encode()


def _flat(found: Any) -> str:
    if isinstance(found, ctypes.Structure):
        return " ".join(str(getattr(found, member[0])) for member in found._fields_ if member[0] not in _UNTOLD)
    return " ".join(map(str, found)) if isinstance(found, (list, tuple)) else str(found)


def _named(code: int) -> str:
    return _ERRORS.get(code, "UNKNOWN")


def main(argv: list[str]) -> None:
    try:
        nvml.open_driver((argv[1],) if len(argv) > 1 else LIBRARIES)
        print("\n".join(Capture().lines()))
    except nvml.DriverError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv)
