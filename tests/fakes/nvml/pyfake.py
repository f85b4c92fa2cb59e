"""Serves a scenario in-process: an object in the place of `pynvml.nvmlLib`, so that the whole real binding runs on it.

Only the C library is replaced: struct versions, out-parameters and error mapping are the binding's own. Faults that
hang or crash belong to the compiled driver and are refused here.
"""

from __future__ import annotations

import ctypes
import fnmatch
import re
import time
from collections.abc import Callable
from typing import Any

import pynvml

from tests.fakes.nvml.scenario import CODES, NOT_SUPPORTED, Answer, Scenario

_Reference = type(ctypes.byref(ctypes.c_int()))
_VERSION = re.compile(r"_v\d+")
_UNSIGNED_LONG_LONG = 3
"""nvmlValueType_t"""
_UNTOLD = {"version", "sensorType"}
"""Members of structures that the caller sets."""


def install(scenario: Scenario, now: Callable[[], float] = lambda: 0.0) -> None:
    """Give the binding this driver, freshly loaded."""
    remove()
    pynvml.nvmlLib = FakeLibrary(scenario, now)


def remove() -> None:
    """Give the binding back its first state: no driver loaded."""
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml._nvmlLib_refcount = 0
    pynvml.nvmlLib = None


class FakeLibrary:
    """What ctypes.CDLL would be."""

    def __init__(self, scenario: Scenario, now: Callable[[], float]) -> None:
        self._scenario = scenario
        self._now = now
        self._initialised = False
        self._sections = list(scenario.answers)
        """A handle is an index into this list, plus 1."""
        self._calls = [0] * len(scenario.faults)
        self.limits: dict[str, int] = {}
        """Section → milliwatts that somebody set."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("nvml") or self._scenario.lacks(name):
            raise AttributeError(name)
        return lambda *arguments: self._call(name, arguments)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> int:
        section = self._section_of(arguments)
        rc = self._entered(name, self._gpu_of(name, section, arguments))
        if rc:
            return rc
        own = getattr(self, "_" + _VERSION.sub("", name), None)
        return own(name, section, arguments) if own else self._told(name, section, arguments)

    def _section_of(self, arguments: tuple[Any, ...]) -> str | None:
        if not arguments or not isinstance(arguments[0], pynvml.c_nvmlDevice_t):
            return None
        number = ctypes.cast(arguments[0], ctypes.c_void_p).value
        return self._sections[number - 1] if number else None

    def _gpu_of(self, name: str, section: str | None, arguments: tuple[Any, ...]) -> int:
        if name.startswith("nvmlDeviceGetHandleByIndex"):
            return int(arguments[0].value)
        found = re.search(r"\d+", section or "")
        return int(found[0]) if found else -1

    def _entered(self, name: str, gpu: int) -> int:
        now = self._now()
        rc = 0 if self._initialised or name.startswith("nvmlInit") else CODES["UNINITIALIZED"]
        for number, fault in enumerate(self._scenario.faults):
            befalls = (
                fnmatch.fnmatchcase(name, fault.fn) and fault.gpu in {-1, gpu} and fault.start <= now < fault.until
            )
            if not befalls:
                continue
            self._calls[number] += 1
            if self._calls[number] <= fault.after:
                continue
            if fault.hang or fault.crash:
                raise NotImplementedError("only the compiled driver hangs and crashes")
            time.sleep(fault.delay_s)
            rc = rc or fault.rc
        return rc

    def _answer(self, section: str | None, key: str) -> Answer:
        where, now = section or "system", self._now()
        exact = self._scenario.answer(where, key, now)
        return exact if exact.rc != NOT_SUPPORTED else self._scenario.answer(where, _VERSION.sub("", key), now)

    def _told(self, name: str, section: str | None, arguments: tuple[Any, ...]) -> int:
        """Fill whatever out-parameters the binding passes, in their order, with the scenario's answer."""
        rest = arguments[1:] if section else arguments
        targets = [argument._obj for argument in rest if isinstance(argument, _Reference)]
        asked = [str(_plain(argument)) for argument in rest if not isinstance(argument, (_Reference, ctypes.Array))]
        buffers = [argument for argument in rest if isinstance(argument, ctypes.Array)]
        key = re.sub(r"^nvml(DeviceGet|SystemGet)?", "", name)
        if key == "TemperatureV":
            key, asked = "Temperature", [str(targets[0].sensorType)]
        answer = self._answer(section, ".".join([key, *(asked if not buffers else [])]))
        if answer.rc:
            return answer.rc
        if buffers:
            buffers[0].value = answer.text
        else:
            _fill(targets, answer.numbers(self._now()))
        return 0

    # Calls whose shape is their own.

    def _nvmlInitWithFlags(self, name: str, section: None, arguments: tuple[Any, ...]) -> int:
        refusal = self._answer(None, "Init").rc
        self._initialised = refusal in {0, NOT_SUPPORTED}
        return 0 if self._initialised else refusal

    def _nvmlDeviceGetCount(self, name: str, section: None, arguments: tuple[Any, ...]) -> int:
        arguments[0]._obj.value = self._count()
        return 0

    def _nvmlDeviceGetHandleByIndex(self, name: str, section: None, arguments: tuple[Any, ...]) -> int:
        wanted = f"gpu{arguments[0].value}"
        if arguments[0].value >= self._count() or wanted not in self._sections:
            return CODES["INVALID_ARGUMENT"]
        return self._give(wanted, arguments[1]._obj)

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, name: str, section: str, arguments: tuple[Any, ...]) -> int:
        wanted = f"mig{section.removeprefix('gpu')}.{arguments[1].value}"
        return self._give(wanted, arguments[2]._obj) if wanted in self._sections else CODES["NOT_FOUND"]

    def _nvmlDeviceGetPciInfo(self, name: str, section: str, arguments: tuple[Any, ...]) -> int:
        answer, pci = self._answer(section, "PciInfo"), arguments[1]._obj
        if answer.rc:
            return answer.rc
        pci.busId = answer.text
        pci.domain, pci.bus, pci.device = (int(part, 16) for part in re.split(rb"[:.]", answer.text)[:3])
        return 0

    def _nvmlDeviceGetGpuFabricInfoV(self, name: str, section: str, arguments: tuple[Any, ...]) -> int:
        answer, info = self._answer(section, "GpuFabricInfo"), arguments[1]._obj
        if not answer.rc:
            info.state, info.status = (*answer.numbers(self._now()), 0)[:2]
        return answer.rc

    def _nvmlDeviceGetFieldValues(self, name: str, section: str, arguments: tuple[Any, ...]) -> int:
        for entry in arguments[2]._obj:
            answer = self._answer(section, f"Field.{entry.fieldId}")
            entry.nvmlReturn, entry.valueType = answer.rc, _UNSIGNED_LONG_LONG
            entry.value.ullVal = 0 if answer.rc else answer.numbers(self._now())[0]
        return 0

    def _limit(self, name: str, section: str, arguments: tuple[Any, ...]) -> int:
        rc = self._told(name, section, arguments)
        if not rc and section in self.limits:
            arguments[1]._obj.value = self.limits[section]
        return rc

    _nvmlDeviceGetEnforcedPowerLimit = _limit
    _nvmlDeviceGetPowerManagementLimit = _limit

    def _nvmlDeviceSetPowerManagementLimit(self, name: str, section: str, arguments: tuple[Any, ...]) -> int:
        answer = self._answer(section, "PowerManagementLimitConstraints")
        if answer.rc:
            return answer.rc
        lowest, highest = answer.numbers(self._now())
        wanted = _plain(arguments[1])
        if not lowest <= wanted <= highest:
            return CODES["INVALID_ARGUMENT"]
        self.limits[section] = wanted
        return 0

    # Events: those of the scenario whose time came after the set was made. There is one set.

    def _nvmlEventSetCreate(self, name: str, section: None, arguments: tuple[Any, ...]) -> int:
        self._next_event = sum(event.at <= self._now() for event in self._scenario.events)
        self._wanted_events: dict[int, int] = {}
        return 0

    def _nvmlDeviceRegisterEvents(self, name: str, section: str, arguments: tuple[Any, ...]) -> int:
        gpu = int(section.removeprefix("gpu"))
        self._wanted_events[gpu] = self._wanted_events.get(gpu, 0) | arguments[1].value
        return 0

    def _nvmlEventSetWait(self, name: str, section: None, arguments: tuple[Any, ...]) -> int:
        """Does not wait: the clock of a test stands still."""
        out = arguments[1]._obj
        for event in self._scenario.events[self._next_event :]:
            if event.at > self._now():
                break
            self._next_event += 1
            if self._wanted_events.get(event.gpu, 0) & event.type:
                out.eventType, out.eventData = event.type, event.data
                out.gpuInstanceId = out.computeInstanceId = 0xFFFFFFFF
                return self._give(f"gpu{event.gpu}", out, type(out).device.offset)
        return CODES["TIMEOUT"]

    def _list(self, name: str, section: str, arguments: tuple[Any, ...]) -> int:
        question = _VERSION.sub("", name).removeprefix("nvmlDeviceGet")
        if question in self._scenario.answers[section]:
            return self._answer(section, question).rc
        room, now = arguments[1]._obj.value, self._now()
        kind = question.removesuffix("RunningProcesses")
        listed = [
            process
            for process in self._scenario.processes
            if f"gpu{process.gpu}" == section and process.kind == kind and process.start <= now < process.until
        ]
        arguments[1]._obj.value = len(listed)
        for slot, process in zip(arguments[2] or (), listed, strict=False):
            slot.pid, slot.usedGpuMemory = process.pid, process.memory
            slot.gpuInstanceId, slot.computeInstanceId = process.instance, 0xFFFFFFFF
        return CODES["INSUFFICIENT_SIZE"] if len(listed) > room else 0

    _nvmlDeviceGetComputeRunningProcesses = _list
    _nvmlDeviceGetGraphicsRunningProcesses = _list
    _nvmlDeviceGetMPSComputeRunningProcesses = _list

    def _count(self) -> int:
        told = self._scenario.answer("system", "Count", self._now())
        return self._scenario.gpus if told.rc else told.numbers(self._now())[0]

    def _give(self, section: str, holder: Any, offset: int = 0) -> int:
        slot = ctypes.cast(ctypes.addressof(holder) + offset, ctypes.POINTER(ctypes.c_void_p))
        slot[0] = self._sections.index(section) + 1
        return 0


def _plain(argument: Any) -> Any:
    return argument.value if isinstance(argument, ctypes._SimpleCData) else argument


def _fill(targets: list[Any], numbers: list[int]) -> None:
    slots: list[tuple[Any, str]] = []
    for target in targets:
        members = [field[0] for field in target._fields_] if isinstance(target, ctypes.Structure) else ["value"]
        slots += [(target, member) for member in members if member not in _UNTOLD]
    for (target, member), number in zip(slots, [*numbers, *[0] * len(slots)], strict=False):
        setattr(target, member, number)
