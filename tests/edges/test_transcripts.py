from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.core.errors import StorageError
from agent.core.model import LeaseKey
from agent.edges.transcripts import FileTranscripts, file_name


def key(task_id: str = "t1", attempt: int = 1) -> LeaseKey:
    return LeaseKey(task_id=task_id, attempt=attempt, fence=7)


async def test_a_transcript_is_kept_whole_and_private(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path / "state" / "transcripts")
    await transcripts.keep(key(), b"leaves", until=1234.5)
    (path,) = (tmp_path / "state" / "transcripts").iterdir()
    assert path.name == "000000001235-t1-1-7.leaves"
    assert path.read_bytes() == b"leaves"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_sweep_deletes_what_is_past_its_time_and_nothing_else(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path, quota_bytes=30)
    (tmp_path / "note.txt").write_text("the owner's")
    for number, until in enumerate((10, 20, 30)):
        await transcripts.keep(key(f"t{number}"), b"x" * 10, until)
    assert await transcripts.sweep(20) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000030-t2-1-7.leaves", "note.txt"]
    assert await transcripts.sweep(20) == 0
    await transcripts.keep(key("room"), b"x" * 20, 50)


async def test_the_time_survives_a_restart(tmp_path: Path):
    await FileTranscripts(tmp_path).keep(key(), b"x" * 10, 50)
    again = FileTranscripts(tmp_path, quota_bytes=10)
    assert await again.sweep(49) == 0
    with pytest.raises(StorageError, match="quota"):
        await again.keep(key("more"), b"x", 60)
    assert await again.sweep(50) == 1
    await again.keep(key("more"), b"x" * 10, 60)


async def test_keeping_the_same_again_replaces_it(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path, quota_bytes=10)
    await transcripts.keep(key(), b"x" * 10, 50)
    await transcripts.keep(key(), b"y" * 4, 50)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"yyyy"]
    await transcripts.keep(key("t2"), b"x" * 6, 50)


async def test_files_that_cannot_be_deleted_save_no_others(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path, quota_bytes=100)
    stuck = {f"000000000010-stuck{number}-1-7.leaves" for number in range(5)}
    for number, name in enumerate(sorted(stuck)):
        (tmp_path / name).mkdir()
        await transcripts.keep(key(f"t{number}"), b"x" * 20, 10)
    with pytest.raises(StorageError, match="deleted"):
        await transcripts.sweep(10)
    assert {path.name for path in tmp_path.iterdir()} == stuck
    await transcripts.keep(key("room"), b"x" * 100, 20)


async def test_a_file_that_somebody_else_deleted_is_no_fault(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path)
    for number in range(3):
        await transcripts.keep(key(f"t{number}"), b"x", 10)
    (tmp_path / "000000000010-gone-1-7.leaves").symlink_to("nowhere")  # listed, and not there when it is looked at
    assert await transcripts.sweep(10) == 3


async def test_over_the_quota_nothing_is_written_until_a_sweep_makes_room(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path, quota_bytes=100)
    await transcripts.keep(key("a"), b"x" * 60, 10)
    with pytest.raises(StorageError, match="quota") as refused:
        await transcripts.keep(key("b"), b"x" * 41, 10)
    assert refused.value.full
    assert len(list(tmp_path.iterdir())) == 1
    await transcripts.sweep(10)
    await transcripts.keep(key("b"), b"x" * 100, 20)


async def test_what_a_crash_left_half_written_is_discarded(tmp_path: Path):
    await FileTranscripts(tmp_path).keep(key(), b"x", 50)
    (tmp_path / ".000000000050-t1-1-7.leaves.abcd1234").write_bytes(b"half")
    FileTranscripts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["000000000050-t1-1-7.leaves"]


@pytest.mark.parametrize("task_id", ["../../etc/passwd", "", ".", "a/b", "x" * 300, "a\x00b", "\ud800", "a\n"])
async def test_no_task_id_leads_out_of_the_directory(tmp_path: Path, task_id: str):
    transcripts = FileTranscripts(tmp_path / "transcripts")
    await transcripts.keep(key(task_id), b"x", 50)
    assert [path.name for path in tmp_path.iterdir()] == ["transcripts"]
    assert await transcripts.sweep(50) == 1


def test_different_attempts_have_different_files():
    names = {file_name(key(task, attempt), 1) for task in ("a", "b", "a/b", "a\\b") for attempt in (1, 2)}
    assert len(names) == 8


@pytest.mark.parametrize("until", [-5.0, 0.0, 1e300])
def test_any_time_has_a_name(until: float):
    assert len(file_name(key(), until).split("-")[0]) == 12


async def test_a_full_disk_is_told_as_such_and_leaves_no_half_file(tmp_path: Path):
    mount = shutil.which("mount")
    small = tmp_path / "small"
    small.mkdir()
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        transcripts = FileTranscripts(small)
        with pytest.raises(StorageError) as refused:
            await transcripts.keep(key(), bytes(100_000), 50)
        assert refused.value.full
        assert list(small.iterdir()) == []
        await transcripts.keep(key(), bytes(1000), 50)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_place_that_is_no_directory_is_told_in_words(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be kept"):
        FileTranscripts(tmp_path / "file")


async def test_many_at_once_are_all_kept_and_counted(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path, quota_bytes=320)
    done = await asyncio.gather(
        *(transcripts.keep(key(f"t{number}"), b"x" * 10, 50) for number in range(40)), return_exceptions=True
    )
    assert sum(isinstance(one, StorageError) for one in done) == 8
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 320
