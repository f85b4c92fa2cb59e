"""A node whose sandboxes are containers does the same work, and leaves none behind however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import psutil
import pytest

from agent.devnet.core.records import TaskState
from agent.edges.sandbox.oci.facts import EngineName
from agent.edges.sandbox.processes import PROC
from tests.sandboxes import gone, require_sandbox
from tests.scenarios.world import AgentProcess, World
from tests.tiny_model import write_tiny_model


@pytest.fixture(params=[str(name) for name in EngineName])
async def node(world: World, request: pytest.FixtureRequest) -> AgentProcess:
    await asyncio.to_thread(require_sandbox, request.param)
    weights = write_tiny_model(world.home / "tiny.gguf")
    agent = await world.agent(
        f'[sandbox]\nbackend = "{request.param}"\n[[models]]\nname = "tiny"\npath = "{weights}"\n'
        '[[pools]]\nname = "say"\nmodel = "tiny"\ndevice = "cpu"\ncontext_tokens = 512\nthreads = 1\n'
    )
    view = await world.ready(agent)
    assert view.fingerprint is not None
    assert view.fingerprint.sandbox.backend.startswith(request.param)
    return agent


async def answered(world: World, node: AgentProcess) -> None:
    view = await world.ready(node)
    assert view.fingerprint is not None
    task = await world.ask(view.fingerprint.models[0].digest, "hello", max_tokens=8)
    assert (await world.requester.result(task)).state is TaskState.SETTLED


def engine_of(node: AgentProcess) -> psutil.Process:
    """No child of the node's: found by the directory that it shares with it."""
    servers = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "llama-server"]
    (found,) = (process for process in servers if str(node.runtime) in mounts_of(process.pid))
    return found


def mounts_of(pid: int) -> str:
    with contextlib.suppress(OSError):  # engines of other tests come and go
        return (PROC / str(pid) / "mountinfo").read_text()
    return ""


async def test_work_is_done_in_containers_and_none_outlives_its_agent(world: World, node: AgentProcess) -> None:
    await answered(world, node)
    ended = asyncio.ensure_future(gone(engine_of(node).pid))
    await node.kill()
    await ended
    await node.start()
    await answered(world, node)
    ended = asyncio.ensure_future(gone(engine_of(node).pid))
    node.signal(signal.SIGTERM)
    assert await node.ended() == 0
    await ended
