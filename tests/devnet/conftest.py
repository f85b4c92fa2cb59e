"""A coordinator on a real socket, a requester, and scripted nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.devnet.coordinator import Coordinator
from agent.devnet.requester import Requester
from tests.devnet.node import ScriptedNode

Join = Callable[..., Awaitable[ScriptedNode]]


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    async with Coordinator(tmp_path / "coordinator") as running:
        yield running


@pytest.fixture
async def requester(coordinator: Coordinator) -> AsyncIterator[Requester]:
    async with Requester(coordinator.url, coordinator.requester_token) as client:
        yield client


@pytest.fixture
async def join(coordinator: Coordinator) -> AsyncIterator[Join]:
    """Makes nodes that have enrolled and said hello."""
    async with AsyncExitStack() as stack:

        async def joined(*, seed: int = 1, stream: bool = False, **hello: Any) -> ScriptedNode:
            node = ScriptedNode(coordinator.url, coordinator.public_key, seed=seed, stream=stream)
            await stack.enter_async_context(node)
            await node.join(coordinator.enrol_token(), **hello)
            return node

        yield joined
