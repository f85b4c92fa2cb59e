"""What programs made, until the coordinator has it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import BinaryIO

import pytest

from agent.core.errors import StorageError
from agent.core.model import LeaseKey
from agent.edges.programs.artifacts import FileArtifacts
from tests.edges.programs.making import blob, no_file_larger_than

KEY = LeaseKey(task_id="../../evil task", attempt=1, fence=7)
OTHER = LeaseKey(task_id="task-2", attempt=1, fence=8)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "artifacts"


async def test_what_is_kept_is_there_after_a_restart_until_it_is_dropped(directory: Path) -> None:
    artifacts = FileArtifacts(directory)
    await artifacts.keep(KEY, artifacts.draft(lambda file: file.write(b"content")))
    again = FileArtifacts(directory)
    assert again.of(KEY) == blob(b"content")
    assert again.of(OTHER) is None
    assert await again.read(KEY) == b"content"
    again.drop(KEY)
    assert again.of(KEY) is None
    assert list(directory.iterdir()) == []
    again.drop(KEY)


async def test_one_content_of_two_attempts_is_kept_for_each(directory: Path) -> None:
    artifacts = FileArtifacts(directory)
    for key in (KEY, OTHER):
        await artifacts.keep(key, artifacts.draft(lambda file: file.write(b"same")))
    artifacts.drop(KEY)
    assert await artifacts.read(OTHER) == b"same"


async def test_what_nobody_keeps_is_gone_with_its_last_reference(directory: Path) -> None:
    artifacts = FileArtifacts(directory)
    draft = artifacts.draft(lambda file: file.write(b"content"))
    assert len(list(directory.iterdir())) == 1
    del draft
    gc.collect()
    assert list(directory.iterdir()) == []


def test_a_draft_that_cannot_be_written_is_a_storage_error_and_leaves_nothing(directory: Path) -> None:
    artifacts = FileArtifacts(directory)
    for size in (2000, 200_000):  # met when all is flushed, and on the way
        with no_file_larger_than(1000), pytest.raises(StorageError):
            artifacts.draft(lambda file, size=size: file.write(bytes(size)))
    assert list(directory.iterdir()) == []


def test_what_fails_while_a_draft_is_gathered_is_told_as_it_is(directory: Path) -> None:
    artifacts = FileArtifacts(directory)

    def unreadable(file: BinaryIO) -> None:
        file.write(b"some")
        Path("/nowhere/at/all").read_bytes()

    with pytest.raises(FileNotFoundError):
        artifacts.draft(unreadable)
    assert list(directory.iterdir()) == []


async def test_only_what_an_attempt_still_owes_outlives_a_restart(directory: Path) -> None:
    artifacts = FileArtifacts(directory)
    for key in (KEY, OTHER):
        await artifacts.keep(key, artifacts.draft(lambda file: file.write(b"content")))
    (directory / ".part-x").write_bytes(b"half")
    again = FileArtifacts(directory)
    again.retain([OTHER])
    assert [path.name.partition(".")[0] for path in directory.iterdir()] == ["task-2-1-8"]


async def test_a_file_that_was_lost_is_told_apart_from_one_that_cannot_be_read(directory: Path) -> None:
    artifacts = FileArtifacts(directory)
    await artifacts.keep(KEY, artifacts.draft(lambda file: file.write(b"content")))
    [path] = directory.iterdir()
    path.unlink()
    assert await artifacts.read(KEY) is None
    path.mkdir()
    with pytest.raises(StorageError):
        await artifacts.read(KEY)
