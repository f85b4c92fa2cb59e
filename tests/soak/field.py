"""The processes of a soak: a coordinator and two nodes, each with an engine, a line and, where it can be, a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import LinkError
from tests.chaos.coordinator import CoordinatorProcess
from tests.chaos.storm import StormNode
from tests.patience import PATIENCE_S
from tests.sandboxes import probed
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import AgentProcess
from tests.soak.engine import MixedEngine
from tests.soak.gauges import KEPT_S
from tests.tiny_model import write_tiny_model

NAMES = ("steady", "mortal")
LINES_KEPT = 2000
MIXED = f"""[[models]]
name = "words"
digest = "sha256:{"ab" * 32}"
[[models]]
name = "vectors"
digest = "sha256:{"cd" * 32}"
[[pools]]
name = "words"
model = "words"
engine = "external"
profile = "vllm"
url = "URL"
slots = 4
[[pools]]
name = "vectors"
model = "vectors"
engine = "external"
profile = "vllm"
url = "URL"
slots = 2
kinds = ["embedding"]
"""
REAL = """[[models]]
name = "tiny"
path = "WEIGHTS"
[[pools]]
name = "tiny"
model = "tiny"
device = "cpu"
context_tokens = 512
threads = 1
"""
BAD_NEWS = frozenset({"agent.crashed", "attempt.fault", "attempt.impossible"})


class SoakAgent(AgentProcess):
    """Tells its inner gauges, and keeps the last lines of its log only: hours make many."""

    def __init__(self, home: Path, pools: str, *, url: str, token: str) -> None:
        proof = f"[proof]\nretention_s = {KEPT_S:.0f}\n"
        super().__init__(home, proof + pools, url=url, token=token, breaker_failures=1000)
        self.config.write_text(self.config.read_text().replace('level = "debug"', 'level = "info"'))
        self.told, self.temporary = home / "told.json", home / "tmp"
        self.temporary.mkdir()
        self.program = ("-m", "tests.soak.watched", str(self.told))
        self.environment = {"TMPDIR": str(self.temporary)}
        self.bad: list[str] = []

    def took(self, line: dict) -> None:
        if line.get("event") in BAD_NEWS:
            self.bad.append(f"{self.home.name}: {line}")
        del self.lines[:-LINES_KEPT]


class Field(NamedTuple):
    """All that runs. `models`: name of the pool → digest of its model."""

    home: Path
    coordinator: CoordinatorProcess
    nodes: list[StormNode]
    models: dict[str, str]


@contextlib.asynccontextmanager
async def field(home: Path, *, real: bool = True) -> AsyncIterator[Field]:
    """Everything is up and ready; at the end everything is gone. `real`: with a real engine, where there may be one."""
    home.chmod(0o755)  # a sandbox's user reads the model
    real = real and (await asyncio.to_thread(probed)).usable
    async with contextlib.AsyncExitStack() as stack:
        coordinator = CoordinatorProcess(home / "coordinator")
        coordinator.program = ("-m", "tests.soak.watched", str(home / "coordinator.json"))
        await coordinator.start()
        stack.push_async_callback(coordinator.kill)
        weights = home / "tiny.gguf"
        pools = MIXED + (REAL if real else "")
        if real:
            write_tiny_model(weights)
        nodes = []
        for name in NAMES:
            proxy = await stack.enter_async_context(Proxy(coordinator.url))
            engine = await stack.enter_async_context(MixedEngine())
            async with coordinator.requester() as requester:
                token = await requester.enrol_token()
            text = pools.replace("URL", engine.url).replace("WEIGHTS", str(weights))
            agent = SoakAgent(home / name, text, url=proxy.url, token=token)
            nodes.append(StormNode(agent, proxy, engine, small_disk=False))
            await nodes[-1].start()
            stack.push_async_callback(agent.discard)
        try:
            models = await _models(coordinator, pools=2 + real)
        except TimeoutError:
            stories = "\n".join(node.agent.story() for node in nodes)
            raise AssertionError(f"not all pools were ready within {PATIENCE_S:g} s:\n{stories}") from None
        yield Field(home, coordinator, nodes, models)


async def _models(coordinator: CoordinatorProcess, pools: int) -> dict[str, str]:
    """Once all pools of all nodes are ready. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S), coordinator.requester() as requester:
        while True:
            with contextlib.suppress(LinkError):
                nodes = (await requester.nodes()).nodes
                ready = [[pool for pool in node.fingerprint.pools if pool.ready] for node in nodes if node.fingerprint]
                if [len(its) for its in ready] == [pools] * len(NAMES):
                    return {pool.name: pool.model_digest for pool in ready[0]}
            await asyncio.sleep(0.1)
