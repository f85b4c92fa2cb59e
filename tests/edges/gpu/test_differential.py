"""The in-process driver and the compiled one are the same driver, on every scenario, whenever something changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.core.gpu import GpuReport
from agent.edges.gpu.child import Child, worker_command, worker_environment
from agent.edges.gpu.nvml import DriverError
from agent.edges.gpu.reader import Reader
from tests.fakes.nvml.scenario import load

HOSTS = Path(__file__).parents[2] / "hosts"
SCENARIOS = sorted(path.stem for path in HOSTS.glob("*.ini"))


def moments(name: str) -> list[float]:
    """Times of change at which the driver still answers."""
    scenario = load(HOSTS / f"{name}.ini")
    silent = [(f.start, f.until) for f in scenario.faults if f.hang or f.crash]
    return [t for t in scenario.times() if not any(start <= t < until for start, until in silent)]


def read_in_process() -> GpuReport:
    reader = Reader()
    try:
        reader.open()
        return reader.read()
    except DriverError as error:
        return GpuReport(fault=error.fault, detail=str(error))


async def read_by_child(library: Path) -> GpuReport:
    child = await Child.start(worker_command(library), worker_environment())
    try:
        report = await child.report()
        return replace(report, events=(), absent={})  # a thread of the child hears events when it does
    finally:
        child.kill()
        assert await child.wait_gone(10)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_both_drivers_say_the_same(name: str, place, in_process) -> None:
    driver = place(name)
    for now in moments(name):
        driver.at(now)
        in_process(name, lambda now=now: now)

        assert await read_by_child(driver.library) == read_in_process(), f"at {now} s"
