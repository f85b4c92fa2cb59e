"""`gpu-agent bundle` and `submit`: what users meet before anything runs; for the rest see tests/scenarios."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.cli.main import run
from agent.core.archive import members
from agent.core.model import Bundle
from agent.core.program import published
from agent.edges.signing import KeyPair, verify


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]):
    """Runs a command line; returns exit status, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    (made / "lib").mkdir(parents=True)
    (made / "run").write_text("#!/bin/sh\n")
    (made / "run").chmod(0o700)
    (made / "lib" / "data").write_text("data")
    return made


def test_a_directory_becomes_a_bundle_that_its_publisher_signed(told, source: Path, tmp_path: Path) -> None:
    packed, key = tmp_path / "b.bundle", tmp_path / "publisher.key"
    status, out, _ = told("bundle", source, "-o", packed, "--key", key, "--new-key")
    assert status == 0
    signed = msgspec.json.decode((tmp_path / "b.bundle.json").read_bytes(), type=Bundle)
    assert published(signed, verify)
    assert signed.publisher == KeyPair.load(key).public_key
    assert key.stat().st_mode & 0o777 == 0o600
    assert f"sha256     {signed.sha256}" in out
    raw = packed.read_bytes()
    found = members(lambda offset, count: raw[offset : offset + count], len(raw))
    assert [(entry.path, entry.executable) for entry, _ in found] == [(b"lib/data", False), (b"run", True)]


def test_the_same_files_make_the_same_bundle(told, source: Path, tmp_path: Path) -> None:
    key = tmp_path / "publisher.key"
    told("bundle", source, "-o", tmp_path / "one", "--key", key, "--new-key")
    (source / "lib" / "data").touch()
    told("bundle", source, "-o", tmp_path / "two", "--key", key)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda source: (source / "link").symlink_to("run"), "link: symbolic link"),
        (lambda source: [path.unlink() for path in (source / "run", source / "lib" / "data")], None),
        (lambda source: (source / "big").open("wb").truncate(65 << 20), "cannot become a bundle"),
    ],
    ids=["a link", "nothing but a directory", "too large"],
)
def test_what_cannot_be_a_bundle_is_refused_in_words(
    told, source: Path, tmp_path: Path, spoil, said: str | None
) -> None:
    spoil(source)
    status, _, err = told("bundle", source, "-o", tmp_path / "b", "--key", tmp_path / "key", "--new-key")
    if said is None:
        assert status == 0, "an empty directory is a member, too"
        return
    assert status == 1
    assert said in err


def test_a_key_is_neither_made_nor_replaced_by_accident(told, source: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    arguments = ("bundle", source, "-o", tmp_path / "b", "--key", key)
    status, _, err = told(*arguments)
    assert status == 77
    assert "--new-key" in err
    assert told(*arguments, "--new-key")[0] == 0
    before = key.read_bytes()
    assert told(*arguments, "--new-key")[0] == 77
    assert key.read_bytes() == before
    key.write_text("no key")
    assert told(*arguments)[0] == 77


@pytest.mark.parametrize(
    ("option", "pair", "said"),
    [("--env", "novalue", "NAME="), ("--env", "=value", "NAME="), ("--input", "a=/not/there", "No such file")],
)
def test_what_cannot_be_given_to_a_program_is_a_usage_fault(
    told, source: Path, tmp_path: Path, option: str, pair: str, said: str
) -> None:
    told("bundle", source, "-o", tmp_path / "b", "--key", tmp_path / "key", "--new-key")
    (tmp_path / "token").write_text("t")
    where = ("--coordinator", "http://127.0.0.1:1", "--token-file", tmp_path / "token")
    status, _, err = told("submit", tmp_path / "b", *where, option, pair, "--", "/bundle/run")
    assert status == 2
    assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--array", "1"), "FIRST-LAST"),
        (("--array", "5-1"), "FIRST-LAST"),
        (("--array", "1-5000"), "at most 1000"),
        (("--array", "1-2", "-o", "frames"), "every task"),
        (("--array", "1-2", "--receipt", "r.json"), "every task"),
    ],
)
def test_an_array_that_cannot_be_meant_is_a_usage_fault(
    told, source: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    told("bundle", source, "-o", tmp_path / "b", "--key", tmp_path / "key", "--new-key")
    (tmp_path / "token").write_text("t")
    where = ("--coordinator", "http://127.0.0.1:1", "--token-file", tmp_path / "token")
    status, _, err = told("submit", tmp_path / "b", *where, *arguments, "--", "/bundle/run")
    assert status == 2
    assert said in err


def test_a_bundle_without_its_signature_and_a_coordinator_that_is_not_there_are_told(
    told, source: Path, tmp_path: Path
) -> None:
    told("bundle", source, "-o", tmp_path / "b", "--key", tmp_path / "key", "--new-key")
    (tmp_path / "token").write_text("t")
    where = ("--coordinator", "http://127.0.0.1:1", "--token-file", tmp_path / "token")
    status, _, err = told("submit", tmp_path / "b", *where, "--", "/bundle/run")
    assert status == 69, err
    (tmp_path / "b.json").unlink()
    status, _, err = told("submit", tmp_path / "b", *where, "--", "/bundle/run")
    assert status == 1
    assert "gpu-agent bundle" in err
