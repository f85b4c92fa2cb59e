"""A customer's whole way: a real node does a task, and `gpu-agent verify` repeats it to the bit."""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec
import pytest

from agent.core.proof.commitment import header_bytes
from agent.core.proof.header import ProofKind, decode_header
from agent.core.wire import ResultBody
from agent.devnet.coordinator import Coordinator
from tests.patience import PATIENCE_S
from tests.sandboxes import require_sandbox
from tests.scenarios.world import ROOT, AgentProcess, World
from tests.tiny_model import write_tiny_model


@pytest.fixture
async def node(world: World) -> AgentProcess:
    await asyncio.to_thread(require_sandbox)
    weights = write_tiny_model(world.home / "tiny.gguf")
    agent = await world.agent(
        f'[[models]]\nname = "tiny"\npath = "{weights}"\n'
        '[[pools]]\nname = "say"\nmodel = "tiny"\ndevice = "cpu"\nslots = 1\ncontext_tokens = 512\n'
    )
    await world.ready(agent)
    return agent


async def command(*arguments: object) -> tuple[int, str]:
    """`gpu-agent` as a process: exit status and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def fully_shown(world: World, node: AgentProcess) -> str:
    """A settled task of which the engine showed every token: the tiny model says many broken characters."""
    model = (await world.ready(node)).fingerprint.models[0].digest
    for seed in range(1, 100):
        task = await world.ask(model, "hello", max_tokens=8, seed=seed)
        await world.requester.result(task)
        result = msgspec.json.decode((await world.requester.receipt(task)).result.payload, type=ResultBody)
        assert result.commitment is not None
        if decode_header(header_bytes(result.commitment)).proof_kind is ProofKind.TOKENS_F32:
            return task
    raise AssertionError


async def test_what_a_node_did_is_repeated_elsewhere_to_the_bit(
    world: World, node: AgentProcess, coordinator: Coordinator
) -> None:
    task = await fully_shown(world, node)
    receipt, leaves = node.home / "receipt.json", node.home / "task.leaves"
    code, out = await command("receipt", task, "-o", receipt, "--transcript", leaves, "--config", node.config)
    assert code == 0, out
    code, out = await command(
        *("verify", receipt, "--transcript", leaves, "--coordinator-key", coordinator.public_key, "--json"),
        *("--model", world.home / "tiny.gguf", "--context-tokens", 512),
    )
    told = json.loads(out)
    assert code == 0, told
    assert (told["level"], told["recheck"]["verdict"], told["recheck"]["prompt"]) == (3, "pass", True)
    assert told["recheck"]["sampling"]["checked"] == 8
    exact = told["recheck"]["exact"]  # as far as the first token that no grammar can force
    assert exact["equal"] == exact["compared"] > 0
