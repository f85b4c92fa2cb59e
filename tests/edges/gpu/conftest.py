"""Fake drivers by scenario name, and probes that are closed at the end of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.core.gpu import GpuReport
from agent.edges.gpu.probe import NvmlProbe
from tests.fakes.clock import ManualClock
from tests.fakes.nvml import pyfake
from tests.fakes.nvml.build import Builder, Placed, compiler
from tests.fakes.nvml.scenario import Scenario, load, parse
from tests.patience import PATIENCE_S

HOSTS = Path(__file__).parents[2] / "hosts"


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if compiler() is None:
        pytest.skip("no C compiler here, so the driver cannot be faked as a real library")
    return Builder(tmp_path_factory.mktemp("fake-nvml"))


@pytest.fixture
def place(builder: Builder, tmp_path: Path) -> Callable[[str], Placed]:
    """Puts the compiled driver of a scenario (its name, or its text) on disk."""

    def placed(scenario: str) -> Placed:
        return builder.place(named(scenario), tmp_path / "driver")

    return placed


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def probe_of(clock: ManualClock) -> AsyncIterator[Callable[..., NvmlProbe]]:
    """Probes with a deadline that no healthy child misses, unless a test asks for a short one."""
    probes: list[NvmlProbe] = []

    def made(library: Path | None = None, deadline_s: float = 20.0, **options: object) -> NvmlProbe:
        probes.append(NvmlProbe(clock, library=library, deadline_s=deadline_s, **options))
        return probes[-1]

    yield made
    for probe in probes:
        await probe.close()


@pytest.fixture
def until_opened(clock: ManualClock) -> Callable[[NvmlProbe], Awaitable[GpuReport]]:
    """Awaits the first good report: on a busy machine a child may need several short deadlines to start."""

    async def opened(probe: NvmlProbe) -> GpuReport:
        async with asyncio.timeout(PATIENCE_S):
            while (report := await probe.snapshot()).fault:
                clock.advance(1)
        return report

    return opened


@pytest.fixture
def in_process() -> Iterator[Callable[[str, Callable[[], float]], None]]:
    """Gives the real binding an in-process driver; the binding is clean again after the test."""

    def installed(scenario: str, now: Callable[[], float] = lambda: 0.0) -> None:
        pyfake.install(named(scenario), now)

    yield installed
    pyfake.remove()


def named(scenario: str) -> Scenario:
    return parse(scenario, HOSTS) if "\n" in scenario else load(HOSTS / f"{scenario}.ini")
