"""Real sandboxes whose processes the fake driver lists with more memory than they may use."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from agent.core.errors import SandboxError
from agent.core.gpu import GpuReport
from agent.edges.gpu.reader import Reader
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.processes import tree
from agent.edges.sandbox.vram import GpuMemoryGuard
from agent.ports import ExitKind, Limits, SandboxSpec
from tests.fakes.nvml import pyfake
from tests.fakes.nvml.scenario import parse
from tests.patience import within

pytestmark = pytest.mark.usefixtures("sandboxes")

MIB = 1 << 20
CARD = "[gpu0]\nUUID = GPU-1\nName = A\n"
SPEC = SandboxSpec(
    name="engine",
    argv=("/bin/sh", "-c", "sleep 1000 & echo up > /sock/up; wait"),
    gpus=("GPU-1",),
    limits=Limits(gpu_memory_bytes=100 * MIB),
)


class WithoutNodes(Bubblewrap):
    """For a machine without a GPU: everything but the device nodes."""

    def recipe(self, spec, means):
        return super().recipe(replace(spec, gpus=()), means)


@pytest.fixture
def guard(tmp_path) -> Iterator[GpuMemoryGuard]:
    yield GpuMemoryGuard(WithoutNodes(tmp_path))
    pyfake.remove()


def seen(*processes: tuple[int, int]) -> GpuReport:
    """What the driver lists: pids and MiB."""
    listed = "".join(f"[process]\ngpu = 0\npid = {pid}\nmemory = {size * MIB}\n" for pid, size in processes)
    pyfake.install(parse(CARD + listed))
    reader = Reader(monotonic=lambda: 0.0)
    reader.open()
    return reader.read()


async def started(guard: GpuMemoryGuard, shared, **limits: object):
    spec = replace(SPEC, socket_dir=shared, limits=replace(SPEC.limits, **limits))
    handle = await within(guard.start(spec))
    await within(asyncio.to_thread((shared / "up").read_text))
    return handle


def grandchild(handle) -> int:
    *_, last = tree(handle.pid)
    assert last != handle.pid
    return last


async def test_a_program_over_its_limit_is_ended_and_told_why(guard, shared) -> None:
    handle = await started(guard, shared)
    guard.see(seen((grandchild(handle), 99)))
    waiting = asyncio.create_task(handle.wait())
    await asyncio.sleep(0)
    assert not waiting.done()

    guard.see(seen((grandchild(handle), 60), (handle.pid, 60)))

    end = await within(waiting)
    assert (end.kind, end.detail) == (
        ExitKind.OUT_OF_GPU_MEMORY,
        "used 120 MiB of GPU memory where 100 are allowed",
    )


async def test_what_others_use_is_not_held_against_it(guard, shared) -> None:
    handle = await started(guard, shared)

    guard.see(seen((1, 90_000), (grandchild(handle), 50)))

    end = await within(handle.stop(0))
    assert end.kind is ExitKind.STOPPED


async def test_without_a_limit_nothing_is_watched(guard, shared) -> None:
    handle = await started(guard, shared, gpu_memory_bytes=None)

    guard.see(seen((grandchild(handle), 90_000)))

    assert (await within(handle.stop(0))).kind is ExitKind.STOPPED


async def test_a_limit_that_the_driver_gives_no_figures_for_is_refused(guard, shared) -> None:
    pyfake.install(parse(CARD + "ComputeRunningProcesses = !NOT_SUPPORTED\n" + _NO_LISTS))
    reader = Reader(monotonic=lambda: 0.0)
    reader.open()
    guard.see(reader.read())

    with pytest.raises(SandboxError, match="GPU memory cannot be enforced here: not supported"):
        await guard.start(replace(SPEC, socket_dir=shared))


_NO_LISTS = "GraphicsRunningProcesses = !NOT_SUPPORTED\nMPSComputeRunningProcesses = !NOT_SUPPORTED\n"


async def test_pids_that_nobody_here_has_are_told_once(guard, shared, capsys: pytest.CaptureFixture[str]) -> None:
    handle = await started(guard, shared)
    for _ in range(2):
        guard.see(seen((4_190_000, 90_000)))
    await within(handle.stop(0))

    assert capsys.readouterr().out.count("gpu_memory_unwatched") == 1


async def test_its_own_processes_and_those_in_its_sandboxes_are_told_from_those_of_others(guard, shared) -> None:
    handle = await started(guard, shared, gpu_memory_bytes=None)
    with subprocess.Popen(["sleep", "60"]) as ours:  # a child of ours, as the process that reads the driver is
        stranger = os.getppid()
        asked = (grandchild(handle), handle.pid, ours.pid, os.getpid(), stranger, 4_190_000)
        assert guard.others(asked) == {stranger}, "and a number that nobody has here is nobody's"
        ours.kill()
    await within(handle.stop(0))
