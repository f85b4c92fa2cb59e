"""A machine with a real NVIDIA card; elsewhere these tests skip and say what is missing."""

from __future__ import annotations

import asyncio
import functools

import pytest

from agent.core.gpu import Gpu, GpuReport
from agent.edges.clock import SystemClock
from agent.edges.gpu.probe import NvmlProbe
from tests.sandboxes import require_sandbox


async def settled() -> GpuReport:
    probe = NvmlProbe(SystemClock(), deadline_s=30.0)
    try:
        return await probe.settled()
    finally:
        await probe.close()


@functools.cache
def seen() -> GpuReport:
    """What the real driver lists."""
    return asyncio.run(settled())


@pytest.fixture(scope="session")
def report() -> GpuReport:
    found = seen()
    if not any(gpu.fault is None for gpu in found.gpus):
        pytest.skip(f"no NVIDIA GPU that works: {found.detail}")
    return found


@pytest.fixture(scope="session")
def card(report: GpuReport) -> Gpu:
    """The last one, so that another is there to be hidden wherever there are two."""
    return [gpu for gpu in report.gpus if gpu.fault is None][-1]


@pytest.fixture(scope="session")
def sandboxes(report: GpuReport) -> None:
    require_sandbox()
