"""A real agent with engines that are out to harm it: heartbeats, other tasks, log and memory are well."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import psutil
import pytest

from agent.devnet.core.records import TaskState
from tests.edges.engines.test_malicious import unclean
from tests.sandboxes import require_sandbox
from tests.scenarios.engine import HeldEngine
from tests.scenarios.world import World, external
from tests.tiny_model import write_tiny_model

TRICKS = {
    "floods": ("floods stderr", "start"),
    "words": ("last words", "start"),
    "gigabyte": ("a gigabyte", "/props"),
    "endless": ("an endless answer", "canary"),
    "headers": ("endless headers", "/health"),
}
MALICIOUS = Path(__file__).parents[1] / "edges" / "engines" / "malicious.py"
MOST_MEMORY_BYTES = 160 << 20
"""An idle agent has some 60 MiB; each of these sends what it can."""


def pools(room: Path) -> str:
    engine = room / "bin" / "llama-server"
    engine.parent.mkdir()
    shutil.copy(MALICIOUS, engine)
    for place in (room, engine.parent, engine):
        place.chmod(0o755)
    weights = write_tiny_model(room / "tiny.gguf")
    text = f'[[models]]\nname = "tiny"\npath = "{weights}"\n'
    for name, (trick, at) in TRICKS.items():
        args = json.dumps(["--trick", trick, "--at", at])
        text += f'[[pools]]\nname = "{name}"\nmodel = "tiny"\ndevice = "cpu"\nbinary = "{engine}"\nargs = {args}\n'
    return text


async def test_an_agent_among_hostile_engines_works_on(world: World, engine: HeldEngine) -> None:
    await asyncio.to_thread(require_sandbox)
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("the engines need a Python in /usr/bin")
    agent = await world.agent(pools(world.home) + external(engine.url))
    await agent.saw("engine.ready", pool="held")
    await agent.saw("engine.ready", pool="floods")
    for name in ("words", "gigabyte", "endless"):
        await agent.saw("engine.ended", pool=name)
    for _ in range(3):
        view = await world.requester.result(await world.ask("sha256:" + "ab" * 32))
        assert view.state is TaskState.SETTLED
    used = psutil.Process(agent.process.pid).memory_info().rss
    print(f"\namong {len(TRICKS)} hostile engines the agent holds {used >> 20} MiB")
    assert used < MOST_MEMORY_BYTES
    assert agent.events("beat.failed") == []
    assert agent.noise == [], "every line of the log is one of ours"
    assert not unclean(json.dumps(agent.lines, ensure_ascii=False))
    _, told = await agent.verb("status")
    assert not unclean(told)
    assert "root logged in" in told, "what it said is told"
    assert all(not line.startswith("ERROR") for line in told.splitlines()), "but as its words"
