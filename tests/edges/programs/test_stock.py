"""Bundles and inputs on disk: whole and checked, or not there."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from agent.core.archive import END, Entry, head
from agent.core.errors import EngineError, StorageError
from agent.core.model import Reason
from agent.edges.programs.stock import Incoming, Stock
from agent.edges.programs.unpack import unpack_from
from tests.edges.programs.making import HeldThreads, archive, bring, no_file_larger_than, program, sha256
from tests.patience import within

BUNDLE = archive({"run": b"#!/bin/sh\n", "lib/data": b"x" * 1000})
QUOTA = 1 << 20


@pytest.fixture
def stock(tmp_path: Path) -> Stock:
    return Stock(tmp_path / "programs", QUOTA)


def names(stock_directory: Path) -> list[str]:
    return sorted(path.name for path in stock_directory.iterdir())


async def test_a_bundle_becomes_a_directory_and_an_input_a_file_that_every_user_may_read(
    stock: Stock, tmp_path: Path
) -> None:
    asked = program(BUNDLE, inputs={"a.txt": b"input", "b.txt": b"input"})
    before = os.umask(0o077)
    try:
        await bring(stock, asked, BUNDLE, b"input")
    finally:
        os.umask(before)
    assert stock.lacking(asked) == {}
    with stock.held(asked) as places:
        assert (places.bundle / "run").read_bytes() == b"#!/bin/sh\n"
        assert (places.bundle / "run").stat().st_mode & 0o777 == 0o755
        assert (places.bundle / "lib").stat().st_mode & 0o777 == 0o755
        assert places.inputs["a.txt"] == places.inputs["b.txt"]
        assert places.inputs["a.txt"].stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "programs").stat().st_mode & 0o777 == 0o700


async def test_what_was_kept_is_found_after_a_restart_and_half_made_things_are_not(
    stock: Stock, tmp_path: Path
) -> None:
    asked = program(BUNDLE)
    await bring(stock, asked, BUNDLE)
    directory = tmp_path / "programs"
    (directory / ".part-abc").write_bytes(b"half")
    shutil.copytree(directory / f"bundle-{asked.bundle.sha256}", directory / ".part-abc-tree")
    again = Stock(directory, QUOTA)
    assert again.lacking(asked) == {}
    assert names(directory) == [f"bundle-{asked.bundle.sha256}"]


async def wholly(incoming: Incoming, content: bytes) -> None:
    incoming.write(content)
    await incoming.settle()


@pytest.mark.parametrize(
    ("came", "said"),
    [
        (b"y" + BUNDLE[1:], "SHA-256"),
        (BUNDLE[:-1], "SHA-256"),
        (BUNDLE + b"\0", "more than"),
        (b"", "SHA-256"),
    ],
    ids=["other bytes", "less", "more", "nothing"],
)
async def test_other_bytes_than_were_announced_are_refused_and_leave_nothing(
    stock: Stock, tmp_path: Path, came: bytes, said: str
) -> None:
    asked = program(BUNDLE)
    [(name, size)] = stock.lacking(asked).items()
    with await stock.incoming(name, size) as incoming, pytest.raises(EngineError, match=said) as refused:
        await wholly(incoming, came)
    assert refused.value.reason is Reason.BLOB_UNAVAILABLE
    assert names(tmp_path / "programs") == []
    assert stock.lacking(asked) == {name: size}


def tar(*found: tarfile.TarInfo) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=tarfile.GNU_FORMAT) as file:
        for member in found:
            file.addfile(member, io.BytesIO(bytes(member.size)))
    return into.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def pax(name: str) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as file:
        huge = tarfile.TarInfo(name)
        huge.pax_headers = {"comment": "x" * 100_000}
        file.addfile(huge)
    return into.getvalue()


HOSTILE = {
    "a path upwards": tar(member("../escape")),
    "an absolute path": tar(member("/tmp/escape")),
    "a link out and a file through it": tar(member("d", tarfile.SYMTYPE, linkname="/tmp"), member("d/escape")),
    "a hard link to a secret": tar(member("secret", tarfile.LNKTYPE, linkname="/etc/shadow")),
    "a device": tar(member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "a fifo": tar(member("fifo", tarfile.FIFOTYPE)),
    "a set-user-id program": tar(member("su", mode=0o4755)),
    "a huge header": pax("x"),
    "a sparse terabyte": head(Entry(b"big", (1 << 33) - 1)) + END,
    "a name that is not UTF-8, and nothing after it": head(Entry(b"\xff\xfe", 512)) + END,
    "gzip": b"\x1f\x8b" + bytes(2000),
    "nothing at all": bytes(10),
    "an empty archive cut short": END[:-1],
    "a file below a file": head(Entry(b"a")) + head(Entry(b"a/b")) + END,
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_bundle_is_refused_before_a_file_is_made(stock: Stock, tmp_path: Path, raw: bytes) -> None:
    """Signed by a publisher whom the owner trusts: even then."""
    before = set(tmp_path.rglob("*")) | {Path("/tmp/escape")} & set(Path("/tmp").glob("escape"))
    with pytest.raises(EngineError) as refused:
        await bring(stock, program(raw), raw)
    assert refused.value.reason is Reason.BUNDLE_REFUSED
    assert set(tmp_path.rglob("*")) | {Path("/tmp/escape")} & set(Path("/tmp").glob("escape")) == before


async def test_a_name_that_is_not_utf8_is_a_file_like_any_other(stock: Stock) -> None:
    raw = head(Entry(b"\xff\xfe\n", 3)) + b"abc" + bytes(509) + END
    asked = program(raw)
    await bring(stock, asked, raw)
    with stock.held(asked) as places:
        assert Path(os.fsdecode(os.fsencode(places.bundle) + b"/\xff\xfe\n")).read_bytes() == b"abc"


async def test_the_least_recently_used_goes_first_and_what_runs_stays(tmp_path: Path) -> None:
    inputs = [bytes([number]) * 300 for number in range(4)]
    tasks = [program(BUNDLE, inputs={"i": content}) for content in inputs]
    directory = tmp_path / "programs"
    stock = Stock(directory, len(BUNDLE) + 700)

    def kept() -> list[int]:
        return [n for n, content in enumerate(inputs) if f"input-{sha256(content)}" in names(directory)]

    await bring(stock, tasks[0], BUNDLE, inputs[0])
    with stock.held(tasks[0]):
        await bring(stock, tasks[1], inputs[1])
        assert kept() == [0, 1]
        await bring(stock, tasks[2], inputs[2])
        assert kept() == [0, 2]
    await bring(stock, tasks[3], inputs[3])
    assert kept() == [2, 3]


async def test_when_all_that_is_there_is_in_use_nothing_more_comes_in(tmp_path: Path) -> None:
    stock = Stock(tmp_path / "programs", len(BUNDLE) + 10)
    asked, other = program(BUNDLE), archive({"run": b"other"})
    await bring(stock, asked, BUNDLE)
    with stock.held(asked), pytest.raises(StorageError) as full:
        await bring(stock, program(other), other)
    assert full.value.full
    await bring(stock, program(other), other)


async def test_a_task_whose_things_went_again_is_told_so(stock: Stock) -> None:
    with pytest.raises(EngineError) as refused, stock.held(program(BUNDLE)):
        pass
    assert refused.value.reason is Reason.BLOB_UNAVAILABLE


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_cancel_waits_for_the_thread_and_what_that_kept_is_usable(
    stock: Stock, tmp_path: Path, when: str
) -> None:
    asked, threads = program(BUNDLE), HeldThreads(when)
    asyncio.get_running_loop().set_default_executor(threads)
    bringing = asyncio.create_task(bring(stock, asked, BUNDLE))
    await threads.until_one_waits()
    for _ in range(3):
        bringing.cancel()
        await asyncio.wait([bringing], timeout=0.01)
    assert not bringing.done()
    threads.go.set()
    with pytest.raises(asyncio.CancelledError):
        await within(bringing)
    assert names(tmp_path / "programs") == [f"bundle-{asked.bundle.sha256}"]
    assert stock.lacking(asked) == {}
    with stock.held(asked) as places:
        assert (places.bundle / "lib/data").read_bytes() == b"x" * 1000


async def test_a_cancelled_bundle_that_is_refused_leaves_nothing(stock: Stock, tmp_path: Path) -> None:
    raw = HOSTILE["a path upwards"]
    asked, threads = program(raw), HeldThreads("after")
    asyncio.get_running_loop().set_default_executor(threads)
    bringing = asyncio.create_task(bring(stock, asked, raw))
    await threads.until_one_waits()
    bringing.cancel()
    threads.go.set()
    with pytest.raises(asyncio.CancelledError):
        await within(bringing)
    assert names(tmp_path / "programs") == []
    assert list(stock.lacking(asked)) == [f"bundle-{asked.bundle.sha256}"]


async def test_what_was_put_in_place_but_not_noted_is_taken_as_it_is(stock: Stock, tmp_path: Path) -> None:
    """As when the directory could not be flushed after the rename."""
    asked, directory = program(BUNDLE), tmp_path / "programs"
    await bring(Stock(tmp_path / "other", QUOTA), asked, BUNDLE)
    name = f"bundle-{asked.bundle.sha256}"
    shutil.copytree(tmp_path / "other" / name, directory / name)
    await bring(stock, asked, BUNDLE)
    assert stock.lacking(asked) == {}
    assert names(directory) == [name]


def test_an_archive_that_becomes_shorter_while_it_is_unpacked_is_an_error(tmp_path: Path) -> None:
    content_at = BUNDLE.index(b"x" * 1000)

    def read_at(offset: int, count: int) -> bytes:
        return b"" if offset == content_at else BUNDLE[offset : offset + count]

    with pytest.raises(OSError, match="shorter"):
        unpack_from(read_at, len(BUNDLE), os.fsencode(tmp_path / "tree"))


async def test_room_is_made_in_a_thread_and_half_removed_bundles_are_never_taken_for_whole(tmp_path: Path) -> None:
    directory, threads = tmp_path / "programs", HeldThreads("before")
    old, new = program(BUNDLE), archive({"run": b"other"})
    stock = Stock(directory, len(BUNDLE) + 10)
    await bring(stock, old, BUNDLE)
    asyncio.get_running_loop().set_default_executor(threads)
    bringing = asyncio.create_task(bring(stock, program(new), new))
    await threads.until_one_waits()
    [aside] = names(directory)
    assert aside.startswith(".part-")
    assert (directory / aside / "lib/data").exists()
    assert list(stock.lacking(old)) == [f"bundle-{old.bundle.sha256}"]
    threads.go.set()
    await within(bringing)
    assert names(directory) == [f"bundle-{sha256(new)}"]


async def test_a_disk_that_takes_no_more_is_a_storage_error_and_leaves_nothing(stock: Stock, tmp_path: Path) -> None:
    asked = program(bytes(100_000))
    with no_file_larger_than(1000), pytest.raises(StorageError):
        await bring(stock, asked, bytes(100_000))
    assert names(tmp_path / "programs") == []


def test_a_disk_that_was_made_read_only_is_waited_for(tmp_path: Path) -> None:
    """In a mount namespace of its own."""
    script = """if True:
        import asyncio, pathlib, subprocess, sys
        from agent.core.errors import StorageError
        from agent.edges.programs.artifacts import FileArtifacts
        from agent.edges.programs.stock import Stock
        disk = sys.argv[1]
        subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
        stock, artifacts = Stock(pathlib.Path(disk, "s"), 1 << 20), FileArtifacts(pathlib.Path(disk, "a"))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for write in (lambda: asyncio.run(stock.incoming("input-x", 1)), lambda: artifacts.draft(lambda file: None)):
            try:
                write()
            except StorageError as error:
                print(error.full)
    """
    unshare = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    told = subprocess.run(
        [*unshare, sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (told.stdout, told.stderr) == ("True\nTrue\n", "")
