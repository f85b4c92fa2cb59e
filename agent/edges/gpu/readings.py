"""What NVML tells of a GPU that moves: the sample of every second, and the condition of every ten."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pynvml

from agent.core.gpu import GpuProcess, SliceSample
from agent.edges.gpu.nvml import U32_NONE, U64_NONE, Absent, Handle, Question, ask, memory, number, one, refusal, told

_POWER_MW = 5_000_000
"""No card draws as much as 5 kW."""
_COUNTER = U64_NONE - 1
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Members of nvmlValue_t by nvmlValueType_t."""


# --------------------------------------------------------------------------- fields, read in one call


def _fields(handle: Handle, wanted: Iterable[int]) -> list[Any]:
    return list(ask(lambda: pynvml.nvmlDeviceGetFieldValues(handle, list(wanted))))


def _value(field: Any, lowest: int, highest: int) -> int:
    if field.nvmlReturn:
        raise refusal(field.nvmlReturn)
    if field.valueType >= len(_MEMBERS):
        raise Absent(f"the driver answers in a form that is not known ({field.valueType})")
    return number(int(getattr(field.value, _MEMBERS[field.valueType])), lowest, highest)


# --------------------------------------------------------------------------- every second


def _memory_now(handle: Handle) -> dict[str, int]:
    found = memory(handle)
    total = number(found.total, 1, _COUNTER)
    return {"memory_used_bytes": number(found.used, 0, total), "memory_free_bytes": number(found.free, 0, total)}


def slice_now(uuid: str, handle: Handle) -> SliceSample | None:
    """None for a slice that does not tell. Raises GpuError, DriverError."""
    now = told(lambda: _memory_now(handle))
    return None if isinstance(now, Absent) else SliceSample(uuid=uuid, **now)


def _utilisation(handle: Handle) -> dict[str, int]:
    found = ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    return {
        "utilisation_percent": number(found.gpu, 0, 100),
        "memory_utilisation_percent": number(found.memory, 0, 100),
    }


def _temperature(handle: Handle) -> int:
    return number(
        ask(
            lambda: pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU),
            lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        ),
        -50,
        200,
    )


def _memory_temperature(handle: Handle) -> int:
    """A card without the sensor may answer 0 with success."""
    return _value(_fields(handle, (pynvml.NVML_FI_DEV_MEMORY_TEMP,))[0], 1, 200)


def _throttle_reasons(handle: Handle) -> int:
    return number(
        ask(
            lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
            lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        ),
        highest=_COUNTER,
    )


_LISTS = tuple(
    (
        kind,
        getattr(pynvml, f"nvmlDeviceGet{name}RunningProcesses_v3"),
        getattr(pynvml, f"nvmlDeviceGet{name}RunningProcesses_v2"),
    )
    for kind, name in (("compute", "Compute"), ("graphics", "Graphics"), ("mps", "MPSCompute"))
)


def _processes(handle: Handle) -> dict[str, object]:
    """Distinct pids of all kinds that the driver lists; absent when it lists no kind."""
    users: dict[tuple[int, int], GpuProcess] = {}
    """By pid and slice: a process may use several slices of one card."""
    refusals: list[Absent] = []
    for kind, newer, older in _LISTS:
        try:
            listed = ask(partial(newer, handle), partial(older, handle))
        except Absent as reason:
            refusals.append(reason)
            continue
        for entry in listed:
            key = (entry.pid, getattr(entry, "gpuInstanceId", U32_NONE))
            users[key] = _joined(users.get(key), kind, entry)
    if len(refusals) == len(_LISTS):
        raise refusals[0]
    return {"processes": len({pid for pid, _ in users}), "users": tuple(users.values())}


def _joined(known: GpuProcess | None, kind: str, entry: Any) -> GpuProcess:
    """One process may be on several lists; each tells all of its memory."""
    before = known.memory_bytes if known else None
    told_bytes = [size for size in (before, entry.usedGpuMemory) if size is not None]
    instance = getattr(entry, "gpuInstanceId", U32_NONE)
    return GpuProcess(
        pid=entry.pid,
        kinds=((*known.kinds, kind) if known else (kind,)),
        memory_bytes=max(told_bytes, default=None),
        gpu_instance=None if instance == U32_NONE else instance,
    )


SAMPLE: tuple[Question, ...] = (
    (("memory_used_bytes", "memory_free_bytes"), _memory_now),
    (("utilisation_percent", "memory_utilisation_percent"), _utilisation),
    one("temperature_c", _temperature),
    one("memory_temperature_c", _memory_temperature),
    one("power_mw", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetPowerUsage(h)), 0, _POWER_MW)),
    one("sm_clock_mhz", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_SM)))),
    one("memory_clock_mhz", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_MEM)))),
    one("throttle_reasons", _throttle_reasons),
    (("processes",), _processes),
)
"""What moves by the second."""


# --------------------------------------------------------------------------- every ten seconds

_SLOW_FIELDS: Mapping[str, tuple[int, int]] = {
    "energy_mj": (pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, _COUNTER),
    "power_throttled_ns": (pynvml.NVML_FI_DEV_PERF_POLICY_POWER, _COUNTER),
    "thermal_throttled_ns": (pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL, _COUNTER),
    "ecc_corrected": (pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL, _COUNTER),
    "ecc_uncorrected": (pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL, _COUNTER),
    "rows_remapped_corrected": (pynvml.NVML_FI_DEV_REMAPPED_COR, U32_NONE - 1),
    "rows_remapped_uncorrected": (pynvml.NVML_FI_DEV_REMAPPED_UNC, U32_NONE - 1),
    "remap_pending": (pynvml.NVML_FI_DEV_REMAPPED_PENDING, 1),
    "remap_failed": (pynvml.NVML_FI_DEV_REMAPPED_FAILURE, 1),
    "pcie_replays": (pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER, U32_NONE - 1),
    "recovery_action": (pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 255),
}
"""Field → NVML's number of it and the highest value that can be."""
_FLAGS = frozenset({"remap_pending", "remap_failed"})


def _slow_fields(handle: Handle) -> dict[str, object]:
    entries = _fields(handle, (number for number, _ in _SLOW_FIELDS.values()))
    found: dict[str, object] = {}
    for (name, (_, highest)), entry in zip(_SLOW_FIELDS.items(), entries, strict=True):
        answer = told(partial(_value, entry, 0, highest))
        found[name] = bool(answer) if name in _FLAGS and not isinstance(answer, Absent) else answer
    return found


def _nvlinks(handle: Handle) -> dict[str, int]:
    links = _value(_fields(handle, (pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT,))[0], 0, 64)
    states = (told(partial(ask, partial(pynvml.nvmlDeviceGetNvLinkState, handle, link))) for link in range(links))
    active = sum(state == pynvml.NVML_FEATURE_ENABLED for state in states)
    return {"nvlinks": links, "nvlinks_active": active}


def _fabric(handle: Handle) -> int:
    info = pynvml.c_nvmlGpuFabricInfoV_t()
    ask(lambda: pynvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info)))
    if info.state == pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED:
        raise Absent("this card is in no fabric")
    return number(info.state)


CONDITION: tuple[Question, ...] = (
    (tuple(_SLOW_FIELDS), _slow_fields),
    one("pcie_generation", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetCurrPcieLinkGeneration(h)), 1)),
    one("pcie_width", lambda h: number(ask(lambda: pynvml.nvmlDeviceGetCurrPcieLinkWidth(h)), 1)),
    (("nvlinks", "nvlinks_active"), _nvlinks),
    one("fabric_state", _fabric),
)
"""What moves slowly: wear, links, counters."""
