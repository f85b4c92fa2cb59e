"""A tiny real model, and an engine that can be told to misbehave."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.edges.engines.hostile import Engine, running
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    path.chmod(0o644)
    return path


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """The address of a unix socket holds 107 bytes; pytest's own directories may be longer."""
    with tempfile.TemporaryDirectory(prefix="ga-") as path:
        yield Path(path)


@pytest_asyncio.fixture
async def engine(short_dir: Path) -> AsyncIterator[Engine]:
    async with running(short_dir / "engine.sock") as engine:
        yield engine
