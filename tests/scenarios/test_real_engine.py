"""The real llama-server in the real sandbox, through the whole path, as a customer would use it."""

from __future__ import annotations

import asyncio
import json
import signal

import msgspec
import psutil
import pytest

from agent.core.model import CompletionInput, EmbeddingInput, LeaseKey
from agent.core.proof.commitment import header_bytes
from agent.core.proof.header import decode_header
from agent.core.proof.receipt import examine, verify_bundle
from agent.core.wire import ResultBody
from agent.devnet.coordinator import Coordinator
from agent.devnet.core.records import TaskState
from agent.devnet.streams import ChunkSeen
from agent.edges.signing import verify
from agent.edges.transcripts import read_transcript
from tests.patience import PATIENCE_S
from tests.sandboxes import require_sandbox
from tests.scenarios.world import AgentProcess, World
from tests.tiny_model import write_tiny_model


@pytest.fixture
async def node(world: World) -> AgentProcess:
    """An agent with a generating pool of two slots and an embedding pool, both on the tiny model."""
    await asyncio.to_thread(require_sandbox)
    weights = write_tiny_model(world.home / "tiny.gguf")
    shape = 'model = "tiny"\ndevice = "cpu"\ncontext_tokens = 512\nthreads = 1\n'
    agent = await world.agent(
        f'[[models]]\nname = "tiny"\npath = "{weights}"\n'
        f'[[pools]]\nname = "say"\nslots = 2\n{shape}[[pools]]\nname = "embed"\nkinds = ["embedding"]\n{shape}'
        'args = ["--pooling", "mean"]\n'
    )
    await world.ready(agent)
    return agent


async def model_of(world: World, agent: AgentProcess) -> str:
    return (await world.ready(agent)).fingerprint.models[0].digest


async def test_chat_completion_and_embedding_are_done_proven_and_verified(
    world: World, node: AgentProcess, coordinator: Coordinator
) -> None:
    model = await model_of(world, node)
    asked = ["hello", CompletionInput(prompt="once upon"), EmbeddingInput(texts=("one", "two"))]
    tasks = [await world.ask(model, one, max_tokens=40) for one in asked]
    for task, one in zip(tasks, asked, strict=True):
        view = await world.requester.result(task)
        assert view.state is TaskState.SETTLED, view
        bundle = await world.requester.receipt(task)
        verify_bundle(bundle, verify, coordinator_key=coordinator.public_key)
        output = json.loads(bundle.output)
        if isinstance(one, EmbeddingInput):
            assert [len(row) for row in output["vectors"]] == [32, 32]
        else:
            assert output["usage"]["completion_tokens"] <= 40
            assert output["text"]


async def test_the_kept_transcript_is_the_one_that_was_committed_to(world: World, node: AgentProcess) -> None:
    task = await world.ask(await model_of(world, node), "hello", max_tokens=40)
    await world.requester.result(task)
    bundle = await world.requester.receipt(task)
    result = msgspec.json.decode(bundle.result.payload, type=ResultBody)
    key = LeaseKey(task_id=task, attempt=result.attempt, fence=result.fence)
    kept = read_transcript(node.home / "state/transcripts", key)
    assert kept
    verdict = examine(bundle, verify, transcript=kept)
    assert verdict.error is None
    commitment = result.commitment
    header = decode_header(header_bytes(commitment))
    assert header.completion_tokens <= 40
    assert header.engine_digest
    assert header.prompt_sha256


async def test_the_same_seed_gives_the_same_text_on_one_slot_at_a_time(world: World, node: AgentProcess) -> None:
    model = await model_of(world, node)
    texts = []
    for seed in (3, 3, 4):
        view = await world.requester.result(await world.ask(model, "hello", max_tokens=24, seed=seed))
        texts.append(json.loads(view.output)["text"])
    assert texts[0] == texts[1] != texts[2]


async def test_tokens_arrive_while_the_engine_still_computes(world: World, node: AgentProcess) -> None:
    task = await world.ask(await model_of(world, node), "hello", max_tokens=300, temperature_micros=1_000_000)
    events = [event async for event in world.requester.events(task)]
    chunks = [event for event in events if isinstance(event, ChunkSeen)]
    assert len(chunks) > 1
    text = json.loads(events[-1].output)["text"]
    assert text.startswith("".join(chunk.text for chunk in chunks[:1]))


async def test_several_tasks_run_at_once_and_never_more_than_slots(world: World, node: AgentProcess) -> None:
    model = await model_of(world, node)
    tasks = [await world.ask(model, f"task {n}", max_tokens=60) for n in range(8)]
    views = await asyncio.gather(*map(world.requester.result, tasks))
    assert {view.state for view in views} == {TaskState.SETTLED}
    ledger = await world.requester.ledger()
    assert sorted(line.task_id for line in ledger.lines) == sorted(tasks)


async def test_a_prompt_that_does_not_fit_is_declined_with_the_numbers_and_never_started(
    world: World, node: AgentProcess
) -> None:
    task = await world.ask(await model_of(world, node), "word " * 600, max_tokens=100)
    declined = await node.saw("offer.declined", task=task)
    assert declined["reason"] == "context_too_long"
    assert not [line for line in node.events("attempt.moved") if line["state"] == "staging" and line["task"] == task]
    await world.requester.cancel(task)


async def test_a_killed_engine_is_explained_restarted_and_the_task_still_done(world: World, node: AgentProcess) -> None:
    model = await model_of(world, node)
    engines = [p for p in psutil.Process(node.process.pid).children(recursive=True) if p.name() == "llama-server"]
    assert len(engines) == 2
    for engine in engines:
        engine.send_signal(signal.SIGKILL)
    ended = await node.saw("engine.ended", pool="say")
    assert "SIGKILL" in ended["detail"] or "killed" in ended["detail"]
    task = await world.ask(model, "hello again", max_tokens=8)
    assert (await world.requester.result(task)).state is TaskState.SETTLED


async def test_a_stopped_agent_leaves_no_engine_behind(world: World, node: AgentProcess) -> None:
    children = psutil.Process(node.process.pid).children(recursive=True)
    assert any(child.name() == "llama-server" for child in children)
    node.signal(signal.SIGTERM)
    assert await node.ended() == 0
    assert psutil.wait_procs(children, timeout=PATIENCE_S)[1] == []
