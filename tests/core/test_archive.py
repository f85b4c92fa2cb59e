"""The one archive of a set of files."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.archive import (
    BLOCK,
    END,
    MAX_DEPTH,
    MAX_NAME_BYTES,
    ArchiveError,
    Entry,
    Member,
    head,
    members,
    padding,
    shown,
)
from agent.core.program import bundle_digest

NAME = st.binary(min_size=1, max_size=40).filter(lambda it: not set(it) & {0, 47} and it not in (b".", b".."))
FILES = st.dictionaries(
    st.lists(NAME, min_size=1, max_size=6).map(b"/".join),
    st.tuples(st.binary(max_size=1200), st.booleans()),
    max_size=8,
)
LONG = b"d" * 200 + b"/" + b"n" * 150


def packed(files: dict[bytes, tuple[bytes, bool]]) -> bytes:
    made = b""
    for path, (content, executable) in sorted(files.items()):
        made += head(Entry(path, len(content), executable)) + content + bytes(padding(len(content)))
    return made + END


def read(raw: bytes) -> tuple[Member, ...]:
    return members(lambda offset, count: raw[offset : offset + count], len(raw))


def unrelated(files: dict[bytes, object]) -> bool:
    return not any(other.startswith(path + b"/") for path in files for other in files)


@given(FILES.filter(unrelated))
def test_what_is_written_reads_back(files: dict[bytes, tuple[bytes, bool]]):
    raw = packed(files)
    found = read(raw)
    contents = {entry.path: (raw[offset : offset + entry.size], entry.executable) for entry, offset in found}
    assert contents == files


@given(FILES.filter(unrelated), st.data())
def test_no_bit_of_a_header_can_be_changed_unseen(files: dict[bytes, tuple[bytes, bool]], data: st.DataObject):
    raw = packed(files)
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    covered = any(offset <= at < offset + entry.size for entry, offset in read(raw))
    try:
        assert covered or read(changed) != read(raw)
    except ArchiveError:
        assert not covered


@settings(max_examples=300)
@given(st.binary(max_size=3 * BLOCK))
def test_no_bytes_at_all_do_anything_but_fail_cleanly(raw: bytes):
    try:
        read(raw)
    except ArchiveError:
        return
    assert raw == END


def test_the_bytes_are_those_of_the_specification():
    golden = json.loads((Path(__file__).parents[1] / "golden" / "archive" / "archive.json").read_text())
    raw = b""
    for file in sorted(golden["files"], key=lambda file: bytes.fromhex(file["path"])):
        content = bytes.fromhex(file["content"])
        entry = Entry(bytes.fromhex(file["path"]), len(content), file["executable"], file["directory"])
        raw += head(entry) + content + bytes(padding(len(content)))
    raw += END
    assert (len(raw), hashlib.sha256(raw).hexdigest()) == (golden["bytes"], golden["sha256"])
    assert len(read(raw)) == len(golden["files"])
    assert bundle_digest(golden["sha256"], golden["bytes"]).hex() == golden["signed_digest"]


def test_python_and_tar_read_it(tmp_path: Path):
    files = {b"a/run.sh": (b"#!/bin/sh\n", True), b"empty": (b"", False), LONG: (b"x" * 513, False)}
    raw = packed(files)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert {member.name.encode(): member.size for member in tar} == {k: len(v) for k, (v, _) in files.items()}
        assert tar.getmember("a/run.sh").mode == 0o755
    listed = subprocess.run(["tar", "-t"], input=raw, capture_output=True, check=True).stdout
    assert listed.splitlines() == sorted(files)


def test_an_empty_directory_is_kept():
    raw = head(Entry(b"void", directory=True)) + END
    assert read(raw) == (Member(Entry(b"void", directory=True), BLOCK),)


def hostile(kind: bytes = b"0", name: str = "x", **fields: object) -> bytes:
    """One member as Python's tarfile writes it, which knows all that a tar may hold."""
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(format=tarfile.GNU_FORMAT) + END


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("a symbolic link", hostile(tarfile.SYMTYPE, linkname="/etc/passwd")),
        ("a hard link", hostile(tarfile.LNKTYPE, linkname="/etc/passwd")),
        ("a device", hostile(tarfile.CHRTYPE, devmajor=1, devminor=3)),
        ("a fifo", hostile(tarfile.FIFOTYPE)),
        ("a sparse file", hostile(tarfile.GNUTYPE_SPARSE)),
        ("a pax header", hostile(tarfile.XHDTYPE)),
        ("an absolute path", hostile(name="/etc/passwd")),
        ("a path upwards", hostile(name="../escape")),
        ("an owner", hostile(uid=1000)),
        ("a set-user-id bit", hostile(mode=0o4755)),
        ("a time", hostile(mtime=1)),
        ("nothing after it", packed({b"a": (b"x", False)})[: 2 * BLOCK]),
        ("more after its end", packed({}) + bytes(BLOCK)),
        ("a size without content", head(Entry(b"a", 1 << 30)) + END),
        ("dirty padding", head(Entry(b"a", 1)) + b"x" * BLOCK + END),
        ("wrong order", head(Entry(b"b")) + head(Entry(b"a")) + END),
        ("one path twice", head(Entry(b"a")) + head(Entry(b"a")) + END),
        ("a file as a directory", head(Entry(b"a")) + head(Entry(b"a/b")) + END),
        ("a full directory said to be empty", head(Entry(b"a", directory=True)) + head(Entry(b"a/b")) + END),
        ("a short path in the long form", b""),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_an_archive_with_anything_else_is_refused(what: str, raw: bytes):
    if what == "a short path in the long form":
        long = head(Entry(LONG))
        raw = long.replace(LONG, b"short".ljust(len(LONG), b"\0")) + END
    with pytest.raises(ArchiveError):
        read(raw)


@pytest.mark.parametrize(
    "path",
    [b"", b"/a", b"a/", b"a//b", b".", b"a/../b", b"a\0b", b"n" * (MAX_NAME_BYTES + 1), b"d/" * MAX_DEPTH + b"f"],
)
def test_a_path_that_no_member_may_have_cannot_be_written(path: bytes):
    with pytest.raises(ArchiveError):
        head(Entry(path))


def test_paths_are_shown_without_what_moves_a_terminal():
    assert shown(b"a\x1b[2J\n\xff\xe2\x80\xae") == "a\\x1b[2J\\x0a\\xff\\x202e"
