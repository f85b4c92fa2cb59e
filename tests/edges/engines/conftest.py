"""An engine that can be told to misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.edges.engines.hostile import Engine, running


@pytest_asyncio.fixture
async def engine(short_dir: Path) -> AsyncIterator[Engine]:
    async with running(short_dir / "engine.sock") as engine:
        yield engine
