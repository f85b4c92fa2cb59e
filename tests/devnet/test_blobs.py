"""Blobs on a real disk, with time by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.core.wire import MAX_BLOB_BYTES, RefusalCode
from agent.devnet.blobs import MAX_PENDING_BYTES, MAX_PENDING_BYTES_OF_A_NODE, ORPHAN_S, PATIENCE_S, Blobs
from agent.devnet.core.rules import Refused
from tests.devnet.world import sha256
from tests.patience import within

NODE = "n-1"


class Store:
    """Blobs under one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 0.0

    def open(self, *in_use: str, patience_s: float = PATIENCE_S) -> Blobs:
        return Blobs(self.directory / "blobs", frozenset(in_use), lambda: self.now, patience_s=patience_s)


async def pieces(*texts: str) -> AsyncIterator[bytes]:
    for text in texts:
        yield text.encode()


async def test_a_blob_is_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.open().put(NODE, sha256("ab"), None, pieces("a", "b"))
    blobs = store.open()
    assert blobs.size_of(sha256("ab")) == 2
    assert blobs.path_of(sha256("ab")).read_bytes() == b"ab"


@pytest.mark.parametrize("turns", range(40))
async def test_a_blob_that_is_released_while_it_comes_again_is_there_or_is_not(tmp_path: Path, turns: int) -> None:
    """At whichever moment of the upload: what is said to be here has a file."""
    blobs, name = Store(tmp_path).open(), sha256("opening")
    await blobs.put(NODE, name, None, pieces("opening"))
    again = asyncio.create_task(blobs.put(NODE, name, None, pieces("opening")))
    before = blobs.path_of(name).stat().st_ino
    async with asyncio.timeout(60):
        while turns >= 20 and blobs.path_of(name).stat().st_ino == before:  # until it has its name
            await asyncio.sleep(0)
    for _ in range(turns % 20):
        await asyncio.sleep(0)
    blobs.release(NODE, name)
    await again
    assert (blobs.size_of(name) is not None) == blobs.path_of(name).exists()


async def test_a_blob_that_nobody_names_is_deleted_and_an_accepted_one_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blobs = store.open()
    for text in ("kept", "orphan"):
        await blobs.put(NODE, sha256(text), None, pieces(text))
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
        await Store(tmp_path).open().put(NODE, sha256("whole"), None, breaks())
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_a_blob_that_lies_about_its_length_is_cut_off(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 22)

    with pytest.raises(Refused) as refused:
        await Store(tmp_path).open().put(NODE, "0" * 64, 10, endless())
    assert refused.value.code is RefusalCode.TOO_LARGE
    assert list((tmp_path / "blobs").iterdir()) == []


async def filled(blobs: Blobs, nodes: list[str], refused: list[Refused]) -> None:
    """Every node announces the largest blob; the room is theirs until all have announced."""

    async def nested(rest: list[str]) -> AsyncIterator[bytes]:
        yield b"x"
        await filled(blobs, rest, refused)

    if nodes:
        try:
            await blobs.put(nodes[0], sha256("x"), MAX_BLOB_BYTES, nested(nodes[1:]))
        except Refused as error:
            refused.append(error)


async def test_uploads_under_way_count_against_the_room_that_is_left(tmp_path: Path) -> None:
    blobs = Store(tmp_path).open()
    refused: list[Refused] = []
    most = MAX_PENDING_BYTES // MAX_BLOB_BYTES
    await filled(blobs, [f"n-{place}" for place in range(most + 1)], refused)
    assert [error.code for error in refused] == [RefusalCode.BUSY]
    await blobs.put(NODE, sha256("x"), MAX_BLOB_BYTES, pieces("x"))


async def test_whoever_owes_an_opening_is_not_kept_from_it_by_what_others_left(tmp_path: Path) -> None:
    """Else a few nodes that fill the room and name nothing could have every challenged one slashed."""
    blobs, most = Store(tmp_path).open(), MAX_PENDING_BYTES // MAX_BLOB_BYTES

    async def while_full() -> AsyncIterator[bytes]:
        yield b"x"
        await blobs.put("owes", sha256("ab"), MAX_BLOB_BYTES, pieces("ab"), owed=True)
        with pytest.raises(Refused):
            await blobs.put("owes nothing", sha256("ab"), MAX_BLOB_BYTES, pieces("ab"))

    async def nested(left: int) -> AsyncIterator[bytes]:
        yield b"x"
        body = nested(left - 1) if left > 1 else while_full()
        await blobs.put(f"n-{left}", sha256("x"), MAX_BLOB_BYTES, body)

    await blobs.put("n-0", sha256("x"), MAX_BLOB_BYTES, nested(most - 1))
    assert blobs.size_of(sha256("ab")) == 2


async def test_a_node_that_fills_its_own_share_leaves_the_others_theirs(tmp_path: Path) -> None:
    blobs = Store(tmp_path).open()
    refused: list[Refused] = []
    share = MAX_PENDING_BYTES_OF_A_NODE // MAX_BLOB_BYTES
    await filled(blobs, [NODE] * share + ["n-2"], refused)
    assert refused == []
    await filled(blobs, [NODE] * (share + 1), refused)
    assert [error.message for error in refused] == ["too many blobs of this sender wait for the results that name them"]


@pytest.mark.parametrize("came", [(), ("x",)], ids=["nothing came", "a little came"])
async def test_an_upload_that_does_not_move_is_given_up_and_its_room_is_free_again(
    came: tuple[str, ...], tmp_path: Path
) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        async for piece in pieces(*came):
            yield piece
        await asyncio.Event().wait()

    blobs = Store(tmp_path).open(patience_s=0.05)
    share = MAX_PENDING_BYTES_OF_A_NODE // MAX_BLOB_BYTES
    for _ in range(2):
        uploads = [blobs.put(NODE, "0" * 64, MAX_BLOB_BYTES, stuck()) for _ in range(share)]
        outcomes = await within(asyncio.gather(*uploads, return_exceptions=True))
        told = [(it.code, "slower" in it.message) for it in outcomes if isinstance(it, Refused)]
        assert told == [(RefusalCode.BUSY, True)] * share
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_a_blob_that_comes_again_is_not_swept_away_meanwhile_nor_an_hour_after(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blobs = store.open()

    async def while_time_passes() -> AsyncIterator[bytes]:
        yield b"x"
        store.now = ORPHAN_S + 1
        blobs.sweep()
        assert blobs.size_of(sha256("x")) == 1

    await blobs.put(NODE, sha256("x"), None, pieces("x"))
    store.now = ORPHAN_S - 1
    await blobs.put(NODE, sha256("x"), None, while_time_passes())
    store.now = 2 * ORPHAN_S
    blobs.sweep()
    assert blobs.size_of(sha256("x")) == 1
    store.now = 2 * ORPHAN_S + 2
    blobs.sweep()
    assert blobs.size_of(sha256("x")) is None


async def test_an_adopted_blob_stays_when_it_comes_again_and_takes_no_room(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blobs = store.open()
    for _ in range(2):
        await blobs.put(NODE, sha256("x"), None, pieces("x"))
        blobs.adopt(sha256("x"))
    store.now = ORPHAN_S + 1
    blobs.sweep()
    assert blobs.size_of(sha256("x")) == 1
    assert store.open(sha256("x")).size_of(sha256("x")) == 1


async def test_leftovers_of_a_crash_are_removed_at_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open()
    (tmp_path / "blobs" / ".part-1").write_bytes(b"half")
    store.open()
    assert list((tmp_path / "blobs").iterdir()) == []
