"""What is told of each GPU: what the agent, its owner and the coordinator think of it, and its readings.

The readings have the names, units and labels of dcgm-exporter's default set, so that its dashboards and alerts go on
working; all else is ours, in base units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from agent.core.attest.messages import Attestation, Standing
from agent.core.families import Family, Sample, Scene
from agent.core.gpu import Gpu
from agent.core.health import HealthState
from agent.core.status import GpuStatus

MIB = 1 << 20


def _labels(gpu: Gpu, scene: Scene) -> dict[str, str]:
    """As dcgm-exporter's."""
    return {
        "gpu": str(gpu.index),
        "UUID": gpu.uuid,
        "pci_bus_id": gpu.pci_bus_id,
        "device": f"nvidia{gpu.index if gpu.minor is None else gpu.minor}",
        "modelName": gpu.name,
        "Hostname": scene.hostname,
    }


def _gpu(name: str, kind: str, help: str, read: Callable[[Gpu], float | None]) -> Family:
    def samples(scene: Scene) -> Iterable[Sample]:
        for gpu in scene.report.gpus:
            if (value := read(gpu)) is not None:
                yield Sample(value, _labels(gpu, scene))

    return Family(name, kind, help, samples)


def _per(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _mib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes // MIB


def _judged(
    read: Callable[[GpuStatus], Iterable[tuple[float, dict[str, str]]]],
) -> Callable[[Scene], Iterable[Sample]]:
    def samples(scene: Scene) -> Iterable[Sample]:
        for gpu in scene.status.gpus:
            for value, more in read(gpu):
                yield Sample(value, {"gpu": str(gpu.index), "UUID": gpu.uuid, **more})

    return samples


def _health(gpu: GpuStatus) -> Iterable[tuple[float, dict[str, str]]]:
    return ((gpu.state is state, {"state": state.value}) for state in HealthState)


def _xids(scene: Scene) -> Iterable[Sample]:
    """0 where none was told, as dcgm-exporter has it; nothing where nobody could have told."""
    deaf = {"events", "kernel_log"} <= scene.report.absent.keys()
    last = {gpu.uuid: gpu.last_xid for gpu in scene.status.gpus}
    for gpu in scene.report.gpus:
        if (code := last.get(gpu.uuid)) is not None or not deaf:
            yield Sample(code or 0, _labels(gpu, scene))


def _findings(gpu: GpuStatus) -> Iterable[tuple[float, dict[str, str]]]:
    return ((1, {"code": finding.code, "advice": finding.advice.value}) for finding in gpu.findings)


def _power_limits(scene: Scene) -> Iterable[Sample]:
    for gpu in scene.report.gpus:
        if gpu.power_limit_mw is not None:
            yield Sample(gpu.power_limit_mw / 1000, {"gpu": str(gpu.index), "UUID": gpu.uuid})


def _doubts(gpu: GpuStatus) -> Iterable[tuple[float, dict[str, str]]]:
    return ((1, {"code": code}) for code in dict.fromkeys(doubt.code for doubt in gpu.doubts))


def _standing(gpu: GpuStatus) -> Iterable[tuple[float, dict[str, str]]]:
    """Nothing before the coordinator has said one word."""
    said = gpu.attestation
    return ((said.standing is standing, {"standing": standing.value}) for standing in Standing) if said else ()


def _attested(read: Callable[[Attestation], float]) -> Callable[[Scene], Iterable[Sample]]:
    """A figure of the coordinator's; none where it has none."""
    return _judged(lambda gpu: ((value, {}),) if gpu.attestation and (value := read(gpu.attestation)) else ())


GPU_FAMILIES: Final = (
    Family("gpu_agent_gpu_health", "gauge", "1 for the state that the GPU's health is in.", _judged(_health)),
    Family("gpu_agent_gpu_finding", "gauge", "1 for everything that is wrong with the GPU.", _judged(_findings)),
    Family("gpu_agent_gpu_paused", "gauge", "1 while its owner paused it.", _judged(lambda g: ((g.paused, {}),))),
    Family(
        "gpu_agent_gpu_doubt", "gauge", "1 for everything told of the GPU that does not fit together.", _judged(_doubts)
    ),
    Family(
        "gpu_agent_gpu_attestation", "gauge", "1 for what the coordinator said last of the GPU.", _judged(_standing)
    ),
    Family(
        "gpu_agent_gpu_attestation_time_seconds",
        "gauge",
        "When it said so, Unix time on its clock.",
        _attested(lambda said: said.judged_at),
    ),
    Family(
        "gpu_agent_gpu_attestation_operations_per_second",
        "gauge",
        "8-bit additions and multiplications that the GPU showed then, at least.",
        _attested(lambda said: said.gops * 1e9),
    ),
    Family(
        "gpu_agent_gpu_attestation_memory_bytes",
        "gauge",
        "Memory that the GPU showed then, at least.",
        _attested(lambda said: said.memory_bytes),
    ),
    Family("gpu_agent_gpu_power_limit_watts", "gauge", "What the driver lets the GPU draw now.", _power_limits),
    Family(
        "gpu_agent_reboot_needed",
        "gauge",
        "1 when only a reboot helps this machine's GPUs.",
        lambda scene: (Sample(bool(scene.status.reboot)),),
    ),
    _gpu("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", lambda g: g.sample.sm_clock_mhz),
    _gpu("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Memory clock frequency (in MHz).", lambda g: g.sample.memory_clock_mhz),
    _gpu("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C).", lambda g: g.sample.memory_temperature_c),
    _gpu("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", lambda g: g.sample.temperature_c),
    _gpu("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", lambda g: _per(g.sample.power_mw, 1000)),
    _gpu(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Total energy consumption since the driver was loaded (in mJ).",
        lambda g: g.condition.energy_mj,
    ),
    _gpu(
        "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
        "counter",
        "Total number of PCIe retries.",
        lambda g: g.condition.pcie_replays,
    ),
    _gpu("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", lambda g: g.sample.utilisation_percent),
    _gpu(
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        "gauge",
        "Memory utilization (in %).",
        lambda g: g.sample.memory_utilisation_percent,
    ),
    _gpu(
        "DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB).", lambda g: _mib(g.sample.memory_free_bytes)
    ),
    _gpu(
        "DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).", lambda g: _mib(g.sample.memory_used_bytes)
    ),
    Family("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered.", _xids),
    _gpu(
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "counter",
        "Number of remapped rows for uncorrectable errors.",
        lambda g: g.condition.rows_remapped_uncorrected,
    ),
    _gpu(
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        "counter",
        "Number of remapped rows for correctable errors.",
        lambda g: g.condition.rows_remapped_corrected,
    ),
    _gpu(
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
        "gauge",
        "Whether remapping of rows has failed.",
        lambda g: g.condition.remap_failed,
    ),
)
"""In the order of the page."""
