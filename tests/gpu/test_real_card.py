"""A real card: what is read of it, what a sandbox sees of it, and what is captured."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.core.gpu import Gpu, GpuReport, place_of, still
from agent.core.placement import used_by
from agent.core.release import Holding, judge, untold_bytes
from agent.edges.gpu.capture import captured, hidden_uuid
from agent.edges.gpu.reader import Reader
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.processes import tree
from agent.edges.sandbox.vram import GpuMemoryGuard
from agent.ports import ExitKind, Limits, SandboxSpec
from tests.fakes.nvml import pyfake
from tests.fakes.nvml.scenario import parse
from tests.gpu.conftest import settled

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

LIMIT_S = 120.0
PROGRAM = Path(__file__).with_name("cuda_inside.py")
SYSTEM_PYTHON = Path("/usr/bin/python3")
MIB = 1 << 20


def program(*words: str, gpus: tuple[str, ...], **limits: object) -> SandboxSpec:
    """`cuda_inside.py` by the system's Python, or by ours where there is none."""
    mounts: tuple[tuple[Path, str], ...] = ((PROGRAM, "/program/cuda_inside.py"),)
    python = SYSTEM_PYTHON
    if not python.exists():
        mounts = (*mounts, (Path(sys.base_prefix), "/python"))
        python = Path("/python/bin/python3")
    argv = (str(python), "-I", "/program/cuda_inside.py", *words)
    return SandboxSpec(
        name="cuda", argv=argv, ro_mounts=mounts, gpus=gpus, limits=Limits(stdout_bytes=64 << 10, **limits)
    )


async def said(sandbox: Bubblewrap, spec: SandboxSpec) -> dict[str, list[str]]:
    async with asyncio.timeout(LIMIT_S):
        handle = await sandbox.start(spec)
        text = b"".join([piece async for piece in handle.stdout()])
        end = await handle.wait()
    assert (end.kind, end.code) == (ExitKind.EXITED, 0), f"{end.detail}: {handle.stderr_tail()}"
    return json.loads(text)


def boxes(report: GpuReport, folder: Path) -> Bubblewrap:
    return Bubblewrap(folder, place_of=lambda uuid: place_of(report, uuid))


# --------------------------------------------------------------------------- readings


def test_a_card_tells_what_work_is_placed_by(report: GpuReport) -> None:
    for gpu in report.gpus:
        assert gpu.uuid.startswith("GPU-")
        assert gpu.memory_total_bytes
        assert gpu.sample.memory_used_bytes is not None
        assert gpu.sample.memory_free_bytes is not None
        assert gpu.sample.memory_used_bytes + gpu.sample.memory_free_bytes <= gpu.memory_total_bytes
        assert gpu.sample.temperature_c is not None or "temperature_c" in gpu.absent


def test_every_field_that_is_not_told_has_a_reason(report: GpuReport) -> None:
    for gpu in report.gpus:
        for part in (gpu.sample, gpu.condition):
            silent = {name for name in part.__struct_fields__ if getattr(part, name) is None}
            assert silent <= gpu.absent.keys()


def test_nvidia_smi_lists_the_same_cards(report: GpuReport) -> None:
    if (tool := shutil.which("nvidia-smi")) is None:
        pytest.skip("no nvidia-smi here")
    query = [tool, "--query-gpu=uuid,name,memory.total,pci.bus_id", "--format=csv,noheader,nounits"]
    told = subprocess.run(query, check=True, capture_output=True, text=True, timeout=60).stdout

    ours = [f"{gpu.uuid}, {gpu.name}, {(gpu.memory_total_bytes or 0) // MIB}, {gpu.pci_bus_id}" for gpu in report.gpus]
    assert told.splitlines() == ours


def test_the_device_nodes_are_where_the_driver_says(report: GpuReport) -> None:
    for gpu in report.gpus:
        assert (place := place_of(report, gpu.uuid)) is not None
        assert Path(f"/dev/nvidia{place.minor}").is_char_device()


def test_a_captured_card_reads_as_the_real_one(report: GpuReport) -> None:
    text = captured(None)
    pyfake.install(parse(text))
    try:
        reader = Reader(monotonic=lambda: 0.0)
        reader.open()
        served = reader.read()
    finally:
        pyfake.remove()

    def bared(gpu: Gpu) -> Gpu:
        # What stays the same between two readings of a real card, hidden as the capture hides it.
        slices = tuple(replace(part, uuid=hidden_uuid(part.uuid.encode()).decode()) for part in gpu.mig)
        return replace(still(gpu), uuid="", serial=None, mig=slices, absent={})

    assert [gpu.uuid for gpu in served.gpus] == [hidden_uuid(gpu.uuid.encode()).decode() for gpu in report.gpus]
    hidden = [replace(gpu, mig=()) for gpu in map(bared, served.gpus)]
    assert hidden == [replace(gpu, mig=()) for gpu in map(bared, report.gpus)]


# --------------------------------------------------------------------------- the sandbox


async def test_cuda_starts_in_the_sandbox_and_sees_its_gpu_alone(report, card, sandboxes, tmp_path) -> None:
    told = await said(boxes(report, tmp_path), program("look", gpus=(card.uuid,)))

    assert told["uuids"] == [card.uuid.removeprefix("GPU-")]
    assert [node for node in told["nodes"] if node[6:].isdigit()] == [f"nvidia{card.minor}"]


async def test_a_program_that_forgets_the_mask_still_sees_its_gpu_alone(report, card, sandboxes, tmp_path) -> None:
    told = await said(boxes(report, tmp_path), program("look", "unmasked", gpus=(card.uuid,)))

    assert told["uuids"] == [card.uuid.removeprefix("GPU-")]


async def test_without_a_gpu_there_is_no_node(report, sandboxes, tmp_path) -> None:
    async with asyncio.timeout(LIMIT_S):
        handle = await boxes(report, tmp_path).start(program("look", gpus=()))
        end = await handle.wait()

    assert end.code != 0
    assert "cuInit failed" in handle.stderr_tail() or "libcuda" in handle.stderr_tail()


async def test_a_slice_is_seen_alone(report, sandboxes, tmp_path) -> None:
    slices = [part.uuid for gpu in report.gpus for part in gpu.mig]
    if not slices:
        pytest.skip("no MIG slice on this machine")

    told = await said(boxes(report, tmp_path), program("look", gpus=(slices[0],)))

    assert len(told["uuids"]) == 1
    assert len([node for node in told["nodes"] if node[6:].isdigit()]) == 1


async def test_a_program_that_takes_too_much_gpu_memory_is_ended(report, card, sandboxes, tmp_path) -> None:
    guard = GpuMemoryGuard(boxes(report, tmp_path))
    spec = program("hold", str(1024 * MIB), gpus=(card.uuid,), gpu_memory_bytes=512 * MIB)
    async with asyncio.timeout(LIMIT_S):
        handle = await guard.start(spec)
        assert await anext(handle.stdout()) == b"up\n", handle.stderr_tail()
        now = await settled()
        users = [user.pid for gpu in now.gpus if gpu.uuid == card.uuid for user in gpu.sample.users]
        if not any(os.path.exists(f"/proc/{pid}") for pid in users):
            handle.kill()
            pytest.skip(f"the driver's process numbers ({users}) are not this machine's: a container hides them")
        guard.see(now)
        end = await handle.wait()

    assert end.kind is ExitKind.OUT_OF_GPU_MEMORY
    assert "512 are allowed" in end.detail


async def test_memory_of_a_program_that_ended_is_shown_to_be_free(report, card, sandboxes, tmp_path) -> None:
    guard = GpuMemoryGuard(boxes(report, tmp_path))
    async with asyncio.timeout(LIMIT_S):
        handle = await guard.start(program("hold", str(1024 * MIB), gpus=(card.uuid,)))
        assert await anext(handle.stdout()) == b"up\n", handle.stderr_tail()
        now, pids = await settled(), frozenset(tree(handle.pid))
        held = used_by(now, pids, (card.uuid,))
        if held is None:
            handle.kill()
            pytest.skip("the driver does not tell what this machine's processes use: a container hides them")
        assert guard.others(pids) == frozenset()
        holding = Holding(bytes_by_gpu=held, pids=pids, untold=untold_bytes(now, (card.uuid,)))
        assert holding.total_bytes >= 1024 * MIB
        assert not judge(holding, now, ended=False, seconds=0.0).done
        began = time.monotonic()
        handle.kill()
        await handle.wait()
        while not (found := judge(holding, await settled(), ended=True, seconds=time.monotonic() - began)).done:
            assert not found.detail, found.detail
    print(f"{found.released_bytes >> 20} MiB were free {found.seconds:.2f} s after the kill")  # with -s
