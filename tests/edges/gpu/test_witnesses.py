"""gpustat and nvitop read the compiled driver as we do: they witness that it behaves like a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from agent.core.gpu import Gpu
from tests.patience import PATIENCE_S

NVITOP = """
import json
from nvitop import Device

print(json.dumps([
    [d.uuid(), d.name(), d.memory_total(), d.memory_used(), d.gpu_utilization(), d.temperature(), d.power_usage()]
    for d in Device.all()
]))
"""


def run(driver, *command: str) -> str:
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(driver.folder), "HOME": str(driver.folder)}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, timeout=PATIENCE_S
    ).stdout


@pytest.fixture
def witnessed(place, probe_of):
    async def read(scenario: str):
        driver = place(scenario)
        driver.at(3)
        return driver, (await probe_of(driver.library).snapshot()).gpus

    return read


def gpustat_row(gpu: Gpu) -> dict[str, object]:
    sample = gpu.sample
    return {
        "uuid": gpu.uuid,
        "name": gpu.name,
        "index": gpu.index,
        "utilization.gpu": sample.utilisation_percent,
        "temperature.gpu": sample.temperature_c,
        "memory.used": sample.memory_used_bytes // (1 << 20),
        "memory.total": gpu.memory_total_bytes // (1 << 20),
        "power.draw": None if sample.power_mw is None else sample.power_mw // 1000,
    }


@pytest.mark.parametrize("scenario", ["h200x8", "geforce", "mig", "old_driver"])
async def test_gpustat_reads_what_we_read(witnessed, scenario: str) -> None:
    driver, gpus = await witnessed(scenario)

    told = json.loads(run(driver, sys.executable, "-m", "gpustat", "--json"))["gpus"]

    ours = [gpustat_row(gpu) for gpu in gpus]
    assert [{key: row[key] for key in ours[0]} for row in told] == ours


@pytest.mark.parametrize("scenario", ["h200x8", "geforce"])
async def test_nvitop_reads_what_we_read(witnessed, scenario: str) -> None:
    driver, gpus = await witnessed(scenario)

    told = json.loads(run(driver, sys.executable, "-c", NVITOP))

    assert told == [
        [
            gpu.uuid,
            gpu.name,
            gpu.memory_total_bytes,
            gpu.sample.memory_used_bytes,
            gpu.sample.utilisation_percent,
            gpu.sample.temperature_c,
            gpu.sample.power_mw,
        ]
        for gpu in gpus
    ]
