"""Hostile trees in /out."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.archive import MAX_DEPTH, members
from agent.edges.programs.collect import Caps, ChangedError, Survey, TooMuchError, pack, survey
from agent.edges.programs.openat2 import open_beneath, why_missing
from tests.sandboxes import as_ordinary_user

ALL = (b"**",)
MIB = Caps(1 << 20)
NAME = st.binary(min_size=1, max_size=20).filter(lambda it: not set(it) & {0, 47} and it not in (b".", b".."))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    (tmp_path / "secret").write_text("the owner's")
    return made


@pytest.fixture
def root(out: Path) -> Iterator[int]:
    fd = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def archive(root: int, found: Survey, more: dict[bytes, bytes] | None = None) -> bytes:
    into = io.BytesIO()
    for _ in pack(into, root, found.entries, more or {}):
        pass
    return into.getvalue()


def contents(raw: bytes) -> dict[bytes, bytes]:
    read = members(lambda offset, count: raw[offset : offset + count], len(raw))
    return {entry.path: raw[offset : offset + entry.size] for entry, offset in read}


def test_files_come_sorted_without_owner_and_time_and_twice_as_the_same_bytes(out: Path, root: int):
    (out / "b").mkdir()
    (out / "b" / "two.txt").write_text("two")
    (out / "a.sh").write_text("#!/bin/sh")
    (out / "a.sh").chmod(0o700)
    (out / "void").mkdir()
    first = archive(root, survey(root, ALL, MIB), {b"stdout": b"said"})
    os.utime(out / "a.sh", (1, 1))
    second = archive(root, survey(root, ALL, MIB), {b"stdout": b"said"})
    assert first == second
    assert contents(first) == {
        b"out/a.sh": b"#!/bin/sh",
        b"out/b/two.txt": b"two",
        b"out/void": b"",
        b"stdout": b"said",
    }
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert tar.getmember("out/a.sh").mode == 0o755
        assert tar.getmember("out/b/two.txt").mode == 0o644
        assert {(it.uid, it.gid, it.mtime, it.uname) for it in tar} == {(0, 0, 0, "")}


def test_only_what_is_wanted_comes(out: Path, root: int):
    for name in ("1.png", "2.png", "log.txt"):
        (out / name).write_text(name)
    assert [it.path for it in survey(root, (b"*.png",), MIB).entries] == [b"1.png", b"2.png"]


def test_links_fifos_sockets_and_devices_are_left_out_and_told_and_nothing_hangs(out: Path, root: int):
    (out / "link").symlink_to("../secret")
    (out / "dirlink").symlink_to("..")
    (out / "loop").symlink_to("loop")
    (out / "real").write_text("x")
    os.link(out / "real", out / "hard")
    os.link(out.parent / "secret", out / "stolen")
    os.mkfifo(out / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(out)  # a socket's path is short
        listener.bind("sock")
        os.chdir("/")
        found = survey(root, ALL, MIB)
    assert found.entries == ()
    assert sorted(found.left_out) == [
        "dirlink: symbolic link",
        "fifo: fifo",
        "hard: hard link",
        "link: symbolic link",
        "loop: symbolic link",
        "real: hard link",
        "sock: socket",
        "stolen: hard link",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device node")
def test_a_device_is_left_out(out: Path, root: int):
    try:
        os.mknod(out / "null", 0o666 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this container may make no device node")
    assert survey(root, ALL, MIB) == Survey((), ("null: device",))


def test_names_are_bytes(out: Path, root: int):
    for name in (b"new\nline", b"\xff\xfe", b"\x1b[2J", b"-rf", b"a" * 255):
        (out / os.fsdecode(name)).write_bytes(name)
    assert contents(archive(root, survey(root, ALL, MIB))) == {
        b"out/" + name: name for name in (b"new\nline", b"\xff\xfe", b"\x1b[2J", b"-rf", b"a" * 255)
    }


def test_a_sparse_file_counts_as_large_as_it_reads(out: Path, root: int):
    with (out / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooMuchError, match="bytes"):
        survey(root, ALL, MIB)


def test_a_tree_that_is_too_deep_is_refused_not_descended(out: Path, root: int):
    fd = os.dup(root)
    for _ in range(MAX_DEPTH + 5):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(TooMuchError, match="deeper"):
        survey(root, ALL, MIB)


@pytest.mark.parametrize(
    ("caps", "said"), [(Caps(0, files=20), "20 files"), (Caps(0, names=20), "20 files and directories")]
)
def test_too_many_files_are_refused(out: Path, root: int, caps: Caps, said: str):
    for number in range(20):
        (out / str(number)).touch()
    assert len(survey(root, ALL, caps).entries) == 20
    (out / "one more").touch()
    with pytest.raises(TooMuchError, match=f"more than {said}"):
        survey(root, ALL, caps)


def test_what_is_not_wanted_counts_as_a_name_but_not_as_bytes(out: Path, root: int):
    (out / "scratch").write_bytes(bytes(4096))
    (out / "result").write_bytes(b"x")
    assert [it.path for it in survey(root, (b"result",), Caps(100)).entries] == [b"result"]


@pytest.mark.parametrize("how", ["link", "fifo", "directory", "longer", "shorter", "gone", "hard link", "parent"])
def test_a_file_that_is_replaced_between_look_and_copy_is_not_taken(out: Path, root: int, how: str):
    inner = out / "d"
    inner.mkdir()
    victim = inner / "victim"
    victim.write_text("expected")
    found = survey(root, ALL, MIB)
    match how:
        case "longer":
            victim.write_text("expected and more")
        case "shorter":
            victim.write_text("less")
        case "hard link":
            os.link(victim, out / "second")
        case "parent":
            inner.rename(out / "moved")
            (out.parent / "evil").mkdir()
            (out.parent / "evil" / "victim").write_text("8 bytes.")
            inner.symlink_to("../evil")
        case _:
            victim.unlink()
    if how == "link":
        (out.parent / "eight").write_text("8 bytes.")
        victim.symlink_to(out.parent / "eight")
    elif how == "fifo":
        os.mkfifo(victim)
    elif how == "directory":
        victim.mkdir()
    with pytest.raises(ChangedError):
        archive(root, found)


def test_another_file_system_below_is_not_entered():
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match="cross-device"):
            open_beneath(fd, b"proc/version", os.O_RDONLY)
    finally:
        os.close(fd)


def test_openat2_works_here_or_says_why():
    assert why_missing() == ""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.lists(NAME, min_size=1, max_size=3).map(b"/".join),
        st.sampled_from(["file", "link", "fifo", "directory"]) | st.binary(max_size=600),
        max_size=8,
    )
)
def test_of_any_tree_exactly_its_plain_files_come_back(tmp_path_factory: pytest.TempPathFactory, tree: dict):
    place = os.fsencode(tmp_path_factory.mktemp("out"))
    kept: dict[bytes, bytes] = {}
    for path, what in tree.items():
        whole = place + b"/" + path
        try:
            os.makedirs(os.path.dirname(whole), exist_ok=True)
            if isinstance(what, bytes):
                with open(whole, "xb") as file:
                    file.write(what)
                kept[b"out/" + path] = what
            elif what == "link":
                os.symlink("/etc/passwd", whole)
            elif what == "fifo":
                os.mkfifo(whole)
            else:
                os.mkdir(whole)
        except (FileExistsError, NotADirectoryError):
            continue
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = survey(fd, ALL, MIB)
        into = io.BytesIO()
        told = list(pack(into, fd, found.entries, {}))
    finally:
        os.close(fd)
    read = members(lambda offset, count: into.getvalue()[offset : offset + count], len(into.getvalue()))
    assert {k: v for k, v in contents(into.getvalue()).items() if k in kept} == kept
    assert {entry.path for entry, _ in read if not entry.directory} == set(kept)
    assert {it.entry.path: it.sha256 for it in told if not it.entry.directory} == {
        path: hashlib.sha256(content).hexdigest() for path, content in kept.items()
    }


async def with_modes(directory: Path) -> tuple[list[bytes], list[str], dict[bytes, bytes]]:
    out = directory / "out"
    (out / "shut").mkdir(parents=True)
    (out / "blind").mkdir()
    for path in (out / "plain", out / "shut" / "inside", out / "blind" / "inside", out / "secret"):
        path.write_text("x")
    (out / "secret").chmod(0)
    (out / "shut").chmod(0)
    (out / "blind").chmod(0o400)
    fd = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = survey(fd, ALL, MIB)
        return [entry.path for entry in found.entries], sorted(found.left_out), contents(archive(fd, found))
    finally:
        os.close(fd)
        (out / "shut").chmod(0o700)
        (out / "blind").chmod(0o700)


def test_what_its_mode_hides_is_left_out_by_an_ordinary_user_and_by_root_alike(tmp_path: Path):
    """The program made the modes, so a mode must never be taken for a fault of the node's."""
    if os.geteuid() != 0:
        pytest.skip("root sees to it that an ordinary user tries, too")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        by_user = as_ordinary_user(lambda: with_modes(Path(name)))
    entries, left_out, collected = by_user
    why = "its mode forbids to read it"
    assert (entries, collected) == ([b"plain"], {b"out/plain": b"x"})
    assert left_out == [f"blind: {why}", f"secret: {why}", f"shut: {why}"]
    assert asyncio.run(with_modes(tmp_path)) == by_user
