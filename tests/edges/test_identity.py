from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from agent.core.errors import IdentityError
from agent.edges.identity import (
    Enrolment,
    NodeIdentity,
    open_identity,
    open_key,
    read_enrolment,
    write_enrolment,
)
from agent.edges.signing import KeyPair
from tests.patience import PATIENCE_S

ENROLMENT = Enrolment(node_id="node-1", coordinator_key="ab" * 32, url="https://coordinator.example")


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def test_the_first_start_makes_a_private_key_in_a_private_directory(tmp_path: Path):
    state = tmp_path / "var" / "state"
    keys = open_key(state)
    assert (state / "node.key").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700
    assert open_key(state).public_key == keys.public_key


def test_a_configured_key_file_is_used_instead(tmp_path: Path):
    keys = open_key(tmp_path / "state", tmp_path / "keys" / "mine")
    assert KeyPair.load(tmp_path / "keys" / "mine").public_key == keys.public_key
    assert not (tmp_path / "state").exists()


def test_two_first_starts_at_once_agree_on_one_key(tmp_path: Path):
    ready, seen = threading.Barrier(8), []

    def start() -> None:
        ready.wait(timeout=PATIENCE_S)
        seen.append(open_key(tmp_path / "state").public_key)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["node.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int):
    open_key(tmp_path)
    (tmp_path / "node.key").chmod(mode)
    with pytest.raises(IdentityError, match="open to others") as refused:
        open_key(tmp_path)
    assert "chmod 600" in refused.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path):
    open_key(tmp_path)
    os.chown(tmp_path / "node.key", 65534, 65534)
    with pytest.raises(IdentityError, match="belongs to nobody"):
        open_key(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pem: b"",
        lambda pem: pem[: len(pem) // 2],
        lambda pem: b"\x00\xff" * 50,
        lambda pem: pem.replace(b"M", b"!"),
    ],
    ids=["empty", "truncated", "garbage", "corrupt"],
)
def test_a_damaged_key_is_refused_and_left_as_it_is(tmp_path: Path, spoil):
    open_key(tmp_path)
    path = tmp_path / "node.key"
    damaged = spoil(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(IdentityError, match="no usable key") as refused:
        open_key(tmp_path)
    assert "backup" in refused.value.remedy
    assert path.read_bytes() == damaged


def test_a_link_a_directory_and_a_pipe_are_no_key(tmp_path: Path):
    open_key(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "node.key")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "dangling", "directory", "pipe"):
        with pytest.raises(IdentityError, match=r"regular file|cannot be opened"):
            open_key(tmp_path, tmp_path / name)


def test_the_credential_of_systemd_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    keys = KeyPair.generate()
    keys.save(credentials / "node.key")
    (credentials / "node.key").chmod(0o440)  # how systemd shows a credential that an ACL protects
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert open_key(tmp_path / "state").public_key == keys.public_key
    assert not (tmp_path / "state").exists()


def test_other_credentials_do_not_stand_in_for_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    open_key(tmp_path / "state")
    assert (tmp_path / "state" / "node.key").exists()


def test_an_unwritable_state_directory_is_told_in_words(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IdentityError, match="cannot be created") as refused:
        open_key(tmp_path / "file" / "state")
    assert "writable" in refused.value.remedy


def test_a_node_that_never_enrolled_is_told_how(tmp_path: Path):
    assert read_enrolment(tmp_path) is None
    with pytest.raises(IdentityError, match="not enrolled") as refused:
        open_identity(tmp_path)
    assert "gpu-agent enrol" in refused.value.remedy


def test_an_enrolment_survives_a_restart_and_stays_private(tmp_path: Path):
    write_enrolment(tmp_path / "state", ENROLMENT)
    identity = open_identity(tmp_path / "state")
    assert identity.enrolment == ENROLMENT
    assert (identity.node_id, identity.coordinator_key) == ("node-1", "ab" * 32)
    assert (tmp_path / "state" / "enrolment.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"node_id": 7}', b"\xff\xfe", b'{"url":"\xed\xa0\x80"}'])
def test_a_damaged_enrolment_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes):
    (tmp_path / "enrolment.json").write_bytes(content)
    with pytest.raises(IdentityError, match="damaged"):
        read_enrolment(tmp_path)
    assert (tmp_path / "enrolment.json").read_bytes() == content


def test_an_identity_signs_with_its_key(tmp_path: Path):
    identity = NodeIdentity(KeyPair.generate(), ENROLMENT)
    assert identity.verify(identity.public_key, identity.sign(b"x" * 32), b"x" * 32)
