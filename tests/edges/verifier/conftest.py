"""A tiny real model and a short place for its sockets."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.edges.engines.llama import LlamaPool
from tests.edges.verifier import claiming
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    path.chmod(0o644)
    return path


@pytest.fixture
def home() -> Iterator[Path]:
    """The address of a unix socket holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ga-") as path:
        yield Path(path)


@pytest_asyncio.fixture
async def pool(tiny_model: Path, home: Path) -> AsyncIterator[LlamaPool]:
    async with claiming.pool(tiny_model, home) as made:
        yield made
