"""The children that compute: as one process would, and never in anybody's way."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from agent.core.attest.messages import CPU, Work
from agent.core.errors import AttestError
from agent.core.gpu import GpuReport
from agent.core.placement import rooms
from agent.edges.gpu.matrix_children import MatrixChildren, engine_for
from agent.edges.gpu.reader import Reader
from tests.core.attest.matrices import AGAIN, COLUMNS, SEED, WORKS, answered
from tests.edges.gpu.conftest import HOSTS
from tests.patience import PATIENCE_S

DEVICES = tuple(work.device for work in WORKS)


@pytest.fixture
async def children() -> AsyncIterator[MatrixChildren]:
    """Of two devices, on the processor."""
    made = MatrixChildren(lambda _device: "numpy")
    yield made
    await made.close()


def processes() -> list[psutil.Process]:
    return [it for it in psutil.Process().children() if "agent.edges.gpu.matrix_worker" in it.cmdline()]


async def test_two_devices_answer_as_one_process_each_and_see_their_own_gpu_alone(children: MatrixChildren) -> None:
    free = await children.prepare(DEVICES, COLUMNS)
    roots = await children.commit(SEED, WORKS, PATIENCE_S)
    again = await children.reread(AGAIN, PATIENCE_S)
    rows = await children.open(((3, 1499), (7,)), PATIENCE_S)

    honest = [answered(work) for work in WORKS]
    assert all(size > 0 for size in free)
    assert roots == tuple(root for _, root, _ in honest)
    assert again == tuple(root for _, _, root in honest)
    assert rows == (honest[0][0].open((3, 1499)), honest[1][0].open((7,)))
    seen = {Path(f"/proc/{it.pid}/environ").read_bytes().decode() for it in processes()}
    assert {device for device in DEVICES if any(f"CUDA_VISIBLE_DEVICES={device}\0" in it for it in seen)} == set(
        DEVICES
    )
    await children.close()
    assert processes() == []


async def test_what_the_owner_reserved_of_a_gpu_stays_free(children: MatrixChildren) -> None:
    free = await children.prepare((DEVICES[0], CPU), COLUMNS)
    sparing = MatrixChildren(lambda _device: "numpy", reserve_bytes=1 << 20)
    try:
        assert await sparing.prepare((DEVICES[0], CPU), COLUMNS) == (free[0] - (1 << 20), free[1])
    finally:
        await sparing.close()


async def test_a_child_that_hangs_costs_its_deadline_and_not_the_next_challenge(children: MatrixChildren) -> None:
    await children.prepare((CPU,), COLUMNS)
    (stuck,) = processes()
    stuck.suspend()

    with pytest.raises(AttestError, match="has not answered for"):
        await children.commit(SEED, WORKS[:1], 0.2)

    await children.close()
    assert not stuck.is_running()
    await children.prepare((CPU,), COLUMNS)
    assert len(await children.commit(SEED, WORKS[:1], PATIENCE_S)) == 1


async def test_a_child_that_dies_is_told_in_words(children: MatrixChildren) -> None:
    await children.prepare((CPU,), COLUMNS)
    os.kill(processes()[0].pid, signal.SIGSEGV)

    with pytest.raises(AttestError, match="the process for cpu ended"):
        await children.commit(SEED, WORKS[:1], PATIENCE_S)


async def test_what_a_library_raises_is_told_in_its_own_words(children: MatrixChildren) -> None:
    await children.prepare((CPU,), COLUMNS)
    too_much = Work(device=CPU, rows=1 << 22, kept=1 << 22)

    with pytest.raises(AttestError, match="do not fit"):
        await children.commit(SEED, (too_much,), PATIENCE_S)


def test_a_gpu_without_torch_says_what_to_install() -> None:
    if importlib.util.find_spec("torch"):
        pytest.skip("torch is installed here")

    with pytest.raises(AttestError, match=r"gpu-agent\[attest\]"):
        engine_for("GPU-1")


def test_a_gpu_whose_memory_is_taken_is_refused_in_figures_before_a_child_is_started(in_process) -> None:
    full = (HOSTS / "geforce.ini").read_text().replace("24146608128 1199570944", "1503238554 23842570338")
    in_process(full)
    reader = Reader(monotonic=lambda: 0.0)
    reader.open()
    report = GpuReport(gpus=reader.read().gpus)
    (gpu,) = report.gpus
    children = MatrixChildren(engine=lambda _device: "numpy", reserve_bytes=1 << 30, rooms=lambda: rooms(report))

    told = "a challenge needs 2.5 GiB of GPU memory besides the reserve of 1.0 GiB, and 1.4 GiB is free"
    with pytest.raises(AttestError, match=f"^{gpu.uuid}: {told}$"):
        children.check((gpu.uuid,))
    children.check(("GPU-that-tells-nothing", CPU))


async def test_a_gpu_that_fills_up_meanwhile_is_told_in_figures_too() -> None:
    greedy = MatrixChildren(engine=lambda _device: "numpy", reserve_bytes=1 << 40)
    try:
        with pytest.raises(
            AttestError, match=r"a challenge needs 0\.0 GiB .* reserve of 1024\.0 GiB, and 0\.1 GiB is free"
        ):
            await greedy.prepare(("GPU-1",), COLUMNS)
    finally:
        await greedy.close()


def test_what_is_not_installed_is_told_before_a_child_is_started() -> None:
    def missing(device: str) -> str:
        raise AttestError(f"nothing computes for {device}")

    with pytest.raises(AttestError, match="nothing computes for GPU-1"):
        MatrixChildren(engine=missing).check(("GPU-1",))
