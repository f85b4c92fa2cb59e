"""A node made of the agent's real parts, in this process, but for the pool that it is given."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from agent.compose import Composer
from agent.config import Config, CoordinatorConfig, GpuConfig, NodeConfig
from agent.core.model import LeaseKey
from agent.edges.clock import SystemClock
from agent.edges.transcripts import DIRECTORY_NAME, read_transcript
from agent.ports import EnginePool
from tests.attack.pools import only


class Node:
    """What of a running node others may look at."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def transcript(self, key: LeaseKey) -> bytes:
        """What it opens of one task when it is challenged for everything."""
        kept = read_transcript(self._state_dir / DIRECTORY_NAME, key)
        assert kept is not None, f"the node keeps nothing of {key.task_id}"
        return kept


@contextlib.asynccontextmanager
async def running(pool: EnginePool, home: Path, url: str, token: str) -> AsyncIterator[Node]:
    """A node that enrols, takes tasks for `pool` and delivers, until this is left."""
    home.mkdir()
    (home / "token").write_text(token)
    runtime = Path(tempfile.mkdtemp(prefix="ga-"))
    config = Config(
        node=NodeConfig(name=home.name, state_dir=home / "state", cache_dir=home / "cache", runtime_dir=runtime),
        coordinator=CoordinatorConfig(url=url, enrol_token_file=home / "token"),
        gpu=GpuConfig(enabled=False),
    )
    try:
        async with contextlib.AsyncExitStack() as stack:
            composer = Composer(config, home.name, SystemClock(), stack, _nobody, _nobody, only(pool))
            parts = await composer.compose()
            loops = [asyncio.create_task(loop, name=name) for name, loop in parts.loops.items()]
            stack.push_async_callback(_ended, loops)
            yield Node(config.node.state_dir)
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


def _nobody(*_told: object) -> None:
    pass


async def _ended(loops: list[asyncio.Task[None]]) -> None:
    for loop in loops:
        loop.cancel()
    for outcome in await asyncio.gather(*loops, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
