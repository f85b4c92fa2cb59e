"""Blobs on a real disk, with time by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.core.wire import MAX_BLOB_BYTES, RefusalCode
from agent.devnet.blobs import MAX_PENDING_BYTES, ORPHAN_S, Blobs
from agent.devnet.core.rules import Refused
from tests.devnet.world import sha256


class Store:
    """Blobs under one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 0.0

    def open(self, *in_use: str) -> Blobs:
        return Blobs(self.directory / "blobs", frozenset(in_use), lambda: self.now)


async def pieces(*texts: str) -> AsyncIterator[bytes]:
    for text in texts:
        yield text.encode()


async def test_a_blob_is_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.open().put(sha256("ab"), None, pieces("a", "b"))
    blobs = store.open()
    assert blobs.size_of(sha256("ab")) == 2
    assert blobs.path_of(sha256("ab")).read_bytes() == b"ab"


async def test_a_blob_that_nobody_names_is_deleted_and_an_accepted_one_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blobs = store.open()
    for text in ("kept", "orphan"):
        await blobs.put(sha256(text), None, pieces(text))
    blobs.adopt(sha256("kept"))
    store.now = ORPHAN_S + 1
    blobs.sweep()
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [sha256("kept")]
    assert blobs.size_of(sha256("orphan")) is None


async def test_a_broken_upload_leaves_nothing(tmp_path: Path) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Store(tmp_path).open().put(sha256("whole"), None, breaks())
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_a_blob_that_lies_about_its_length_is_cut_off(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 22)

    with pytest.raises(Refused) as refused:
        await Store(tmp_path).open().put("0" * 64, 10, endless())
    assert refused.value.code is RefusalCode.TOO_LARGE
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_uploads_under_way_count_against_the_room_that_is_left(tmp_path: Path) -> None:
    blobs = Store(tmp_path).open()
    most = MAX_PENDING_BYTES // MAX_BLOB_BYTES

    async def nested(depth: int) -> AsyncIterator[bytes]:
        yield b"x"
        if depth < most:
            await blobs.put(sha256("x"), MAX_BLOB_BYTES, nested(depth + 1))

    with pytest.raises(Refused) as refused:
        await blobs.put(sha256("x"), MAX_BLOB_BYTES, nested(0))
    assert refused.value.code is RefusalCode.BUSY
    await blobs.put(sha256("x"), MAX_BLOB_BYTES, pieces("x"))


async def test_leftovers_of_a_crash_are_removed_at_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open()
    (tmp_path / "blobs" / ".part-1").write_bytes(b"half")
    store.open()
    assert list((tmp_path / "blobs").iterdir()) == []
