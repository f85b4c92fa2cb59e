"""An engine built with CUDA, on a real card. Apart from the other tests, which need fewer packages."""

from __future__ import annotations

import asyncio
import os

import pytest

from agent.edges.clock import SystemClock
from agent.edges.engines.launch import LlamaSettings, find_llama_server, runs_on_nvidia
from agent.edges.engines.llama import EngineFacts, LlamaPool
from agent.edges.engines.placement import GpuRoom, Placement
from agent.ports import Finished
from tests.edges.engines.test_llama import Watched, task
from tests.gpu.test_real_card import LIMIT_S, boxes
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]


async def test_llama_server_generates_on_the_gpu(report, card, sandboxes, tmp_path) -> None:
    binary = find_llama_server(os.environ.get("GPU_AGENT_TEST_LLAMA_SERVER", "auto"))
    if not runs_on_nvidia(binary):
        pytest.skip(f"{binary} was built without CUDA; GPU_AGENT_TEST_LLAMA_SERVER names another one")
    weights, sockets = write_tiny_model(tmp_path / "tiny.gguf"), tmp_path / "s"
    weights.chmod(0o644)
    sockets.mkdir()
    settings = LlamaSettings(
        name="gpu",
        binary=binary,
        model="tiny",
        model_digest="sha256:" + "0" * 64,
        weights=weights,
        socket_dir=sockets,
        gpus=(card.uuid,),
    )

    async def measured() -> EngineFacts:
        return EngineFacts("0" * 64, card.name)

    room = GpuRoom()
    room.see(report)
    pool = LlamaPool(
        settings,
        sandbox=boxes(report, tmp_path),
        clock=SystemClock(),
        measure=measured,
        placement=Placement(room, host_memory_bytes=lambda: 1 << 40),
        top_logprobs=4,
    )
    watched = Watched(pool)
    try:
        async with asyncio.timeout(LIMIT_S):
            await watched.ready()
            assert pool.facts.determinism.startswith("X-")  # the driver tells enough of the card
            outputs = await watched.outputs(task())
    finally:
        await watched.close()
    assert isinstance(outputs[-1], Finished)
