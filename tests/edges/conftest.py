"""A tiny real model, a short place for sockets, and a disk that is soon full."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks import small_disk as small
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with small(tmp_path / "small", "1m") as place:
        yield place
