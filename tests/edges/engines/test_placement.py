"""A real engine and the readings of a fake driver: what does not fit waits, and starts when there is room."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.core.errors import EngineError
from agent.core.gpu import GpuReport
from agent.edges.clock import SystemClock
from agent.edges.engines.launch import LlamaSettings, find_llama_server, sandbox_spec
from agent.edges.engines.llama import EngineFacts, LlamaPool
from agent.edges.engines.placement import GpuRoom, Placement
from agent.edges.gpu.reader import Reader
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.ports import Limits
from tests.fakes.nvml import pyfake
from tests.fakes.nvml.scenario import parse
from tests.patience import PATIENCE_S, within
from tests.sandboxes import require_sandbox

GIB = 1 << 30


class WithoutNodes(Bubblewrap):
    """For a machine without a GPU: everything but the device nodes. llama-server then computes on the processor."""

    def recipe(self, spec, means):
        return super().recipe(replace(spec, gpus=()), means)


def seen(free: int, more: str = "") -> GpuReport:
    card = f"[gpu0]\nUUID = GPU-1\nName = A\nMemoryInfo_v2 = {24 * GIB} 0 {free} {24 * GIB - free}\n"
    pyfake.install(parse(card + more))
    try:
        reader = Reader(monotonic=lambda: 0.0)
        reader.open()
        return reader.read()
    finally:
        pyfake.remove()


def settings(model: Path, sockets: Path, **more: object) -> LlamaSettings:
    return LlamaSettings(
        name="main",
        binary=find_llama_server("auto"),
        model="tiny",
        model_digest="sha256:" + "0" * 64,
        weights=model,
        socket_dir=sockets,
        context_tokens=256,
        threads=1,
        **more,
    )


async def test_an_engine_that_does_not_fit_says_so_with_numbers_and_starts_when_memory_is_freed(
    tiny_model: Path, short_dir: Path
) -> None:
    await asyncio.to_thread(require_sandbox)
    room = GpuRoom(reserve_bytes=GIB)
    room.see(seen(GIB))
    told: asyncio.Queue[tuple[bool, str, str]] = asyncio.Queue()

    async def measured() -> EngineFacts:
        return EngineFacts("e" * 64, "some processor")

    pool = LlamaPool(
        settings(tiny_model, short_dir, gpus=("GPU-1",)),
        sandbox=WithoutNodes(short_dir),
        clock=SystemClock(),
        measure=measured,
        placement=Placement(room, chooses=True, host_memory_bytes=lambda: GIB),
    )
    running = asyncio.create_task(
        pool.run(lambda: told.put_nowait((pool.facts.ready, pool.facts.detail, pool.facts.device)))
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while "needs" not in (state := await told.get())[1]:
                assert not state[0]
            assert "GPU-1 has 0.0 GiB of 24.0 GiB free after 23.0 GiB of other programs" in state[1]
            assert "a reserve of 1.0 GiB" in state[1]
            room.see(seen(20 * GIB))
            while not (state := await told.get())[0]:
                pass
            assert state[2] == "GPU-1"
            room.see(seen(0))  # others took it all: the engine goes on
            assert pool.facts.ready
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_two_engines_are_not_promised_the_same_memory(tiny_model: Path, short_dir: Path) -> None:
    room = GpuRoom()
    room.see(seen(GIB // 2))
    wanted = settings(tiny_model, short_dir, gpus=("GPU-1",))
    first, second = (Placement(room, host_memory_bytes=lambda: GIB) for _ in range(2))
    await first.settle(wanted, pytest.fail)
    said: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(second.settle(replace(wanted, name="other"), said.put_nowait))
    assert "of other pools" in await within(said.get())
    first.leave()
    room.see(seen(GIB // 2))
    assert (await within(waiting)).gpus == ("GPU-1",)


async def test_the_processor_is_refused_what_can_never_fit(tiny_model: Path, short_dir: Path) -> None:
    placement = Placement(GpuRoom(), host_memory_bytes=lambda: GIB)
    wanted = settings(tiny_model, short_dir, limits=Limits(memory_bytes=1 << 20))
    with pytest.raises(EngineError, match="engine_memory_mib allows"):
        await placement.settle(wanted, pytest.fail)


def test_several_gpus_are_given_their_parts_in_order(tiny_model: Path, short_dir: Path) -> None:
    argv = sandbox_spec(settings(tiny_model, short_dir, gpus=("GPU-b", "GPU-a"), tensor_split=(48, 24))).argv
    assert argv[argv.index("--tensor-split") + 1] == "48,24"


def using(mib: int, pid: int) -> GpuReport:
    return seen(20 * GIB, f"[process]\ngpu = 0\npid = {pid}\nmemory = {mib << 20}\n")


async def test_an_engine_that_took_more_than_expected_is_placed_by_what_it_took(
    tiny_model: Path, short_dir: Path
) -> None:
    room = GpuRoom()
    room.see(seen(20 * GIB))
    wanted = settings(tiny_model, short_dir, gpus=("GPU-1",))
    placement = Placement(room, host_memory_bytes=lambda: GIB)
    await placement.settle(wanted, pytest.fail)
    placement.started(os.getpid())
    placement.ready()
    for mib in (9000, 8000):  # the most that it took is what counts
        room.see(using(mib, os.getpid()))
    taken = room.taken("main")
    assert (taken.measured_bytes, taken.expected_bytes) == (9000 << 20, pytest.approx(320 << 20, rel=0.1))
    placement.leave()
    room.see(seen(4 * GIB))
    said: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(placement.settle(wanted, said.put_nowait))
    assert "needs 8.8 GiB (measured; expected 0.3 GiB)" in await within(said.get())
    # Also where the owner's arguments keep the header from telling anything.
    assert "needs 8.8 GiB (measured" in room.take("main", None, ("GPU-1",)).refused
    waiting.cancel()


async def test_what_an_engine_takes_of_the_machines_memory_is_measured_beside_what_is_expected(
    tiny_model: Path, short_dir: Path
) -> None:
    room = GpuRoom()
    placement = Placement(room, host_memory_bytes=lambda: GIB)
    await placement.settle(settings(tiny_model, short_dir), pytest.fail)
    assert room.taken("main").measured_bytes is None
    placement.started(os.getpid())
    room.see(GpuReport())
    taken = room.taken("main")
    assert taken.measured_bytes is not None
    assert taken.measured_bytes > 10 << 20
    assert taken.expected_bytes is not None
    assert room.holding("main") is None
