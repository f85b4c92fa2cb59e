"""A pool with the tiny real model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from agent.edges.engines.llama import LlamaPool
from tests.edges.verifier import claiming


@pytest_asyncio.fixture
async def pool(tiny_model: Path, short_dir: Path) -> AsyncIterator[LlamaPool]:
    async with claiming.pool(tiny_model, short_dir) as made:
        yield made
