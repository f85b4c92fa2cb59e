"""A model's digest: same files, same digest, whatever the order; any difference shows."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.manifest import ModelFile, ModelManifest, is_digest

WEIGHTS = ModelFile(path="tiny.gguf", bytes=3, sha256=hashlib.sha256(b"abc").hexdigest())
TEMPLATE = ModelFile(path="chat.jinja", bytes=2, sha256=hashlib.sha256(b"hi").hexdigest())

GOLDEN_BYTES = (
    b'{"files":[{"bytes":2,"path":"chat.jinja","sha256":'
    b'"8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"},'
    b'{"bytes":3,"path":"tiny.gguf","sha256":'
    b'"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}],"name":"tiny"}'
)
GOLDEN_DIGEST = "sha256:" + hashlib.sha256(GOLDEN_BYTES).hexdigest()


def test_the_canonical_bytes_and_digest_never_change() -> None:
    manifest = ModelManifest(name="tiny", files=(WEIGHTS, TEMPLATE))
    assert manifest.canonical() == GOLDEN_BYTES
    assert manifest.digest == GOLDEN_DIGEST
    assert manifest.size_bytes == 5


def test_the_order_of_files_does_not_matter() -> None:
    assert ModelManifest(name="m", files=(WEIGHTS, TEMPLATE)).digest == (
        ModelManifest(name="m", files=(TEMPLATE, WEIGHTS)).digest
    )


@given(st.integers(0, 63), st.sampled_from("0123456789abcdef"))
def test_one_changed_hex_digit_of_a_file_changes_the_digest(position: int, digit: str) -> None:
    sha256 = WEIGHTS.sha256[:position] + digit + WEIGHTS.sha256[position + 1 :]
    changed = ModelManifest(name="m", files=(ModelFile(path=WEIGHTS.path, bytes=3, sha256=sha256),))
    assert (changed.digest == ModelManifest(name="m", files=(WEIGHTS,)).digest) is (sha256 == WEIGHTS.sha256)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../b", "a//b", "./a"])
def test_a_path_outside_the_model_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        ModelFile(path=path, bytes=0, sha256=WEIGHTS.sha256)


@pytest.mark.parametrize("sha256", ["", "ABC", WEIGHTS.sha256.upper(), WEIGHTS.sha256 + "0"])
def test_what_is_no_digest_is_refused(sha256: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        ModelFile(path="a", bytes=0, sha256=sha256)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        ModelFile(path="a", bytes=-1, sha256=WEIGHTS.sha256)


def test_a_file_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        ModelManifest(name="m", files=(WEIGHTS, WEIGHTS)).canonical()


@pytest.mark.parametrize(
    ("text", "expected"), [(GOLDEN_DIGEST, True), (GOLDEN_DIGEST[7:], False), ("sha256:zz", False), ("", False)]
)
def test_the_form_of_a_digest_is_known(text: str, expected: bool) -> None:
    assert is_digest(text) is expected
