"""Model files are hashed before use; what is not right is told with what to do."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from agent.core.errors import ModelError
from agent.core.manifest import ModelFile, ModelManifest
from agent.edges.models.store import ModelStore

CONTENT = os.urandom(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LONG_AGO = 1_700_000_000


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(CONTENT)
    return path


def later() -> float:
    """A file must have settled before it is remembered: its ctime cannot be set back, so the clock is put forward."""
    return time.time() + 10


class Counted:
    """Counts progress calls: none means that nothing was read."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, name: str, done: int, total: int) -> None:
        self.calls.append((name, done, total))


async def test_a_model_is_told_by_the_manifest_of_its_files(tmp_path: Path, weights: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_bytes(b"hi")
    verified = await ModelStore(tmp_path / "cache").verify("m", weights, chat_template=template, license="MIT")
    expected = ModelManifest(
        name="m",
        files=(
            ModelFile(path="m.gguf", bytes=len(CONTENT), sha256=SHA256),
            ModelFile(path="chat-template.jinja", bytes=2, sha256=hashlib.sha256(b"hi").hexdigest()),
        ),
    )
    assert verified.manifest == expected
    assert (verified.facts.digest, verified.facts.bytes) == (expected.digest, len(CONTENT) + 2)
    assert verified.facts.license == "MIT"


async def test_progress_ends_at_the_whole_file(tmp_path: Path, weights: Path) -> None:
    counted = Counted()
    await ModelStore(tmp_path / "cache").sha256(weights, counted)
    assert counted.calls[-1] == ("m.gguf", len(CONTENT), len(CONTENT))


async def test_a_wrong_digest_is_refused_and_both_are_named(tmp_path: Path, weights: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(ModelError) as refused:
        await ModelStore(tmp_path / "cache").verify("m", weights, expected=wrong)
    assert wrong in refused.value.message
    assert SHA256 in refused.value.message
    assert "Fetch the model again" in refused.value.remedy


async def test_a_second_start_reads_nothing(tmp_path: Path, weights: Path) -> None:
    first, second = Counted(), Counted()
    assert (await ModelStore(tmp_path / "cache", later).sha256(weights, first)).sha256 == SHA256
    assert (await ModelStore(tmp_path / "cache", later).sha256(weights, second)).sha256 == SHA256
    assert first.calls
    assert not second.calls


async def test_a_file_that_changed_in_place_is_read_again(tmp_path: Path, weights: Path) -> None:
    store = ModelStore(tmp_path / "cache", later)
    before = await store.sha256(weights)
    with weights.open("r+b") as file:
        file.write(b"tampered")
    os.utime(weights, (LONG_AGO, LONG_AGO))
    after = await store.sha256(weights)
    assert after.size == before.size
    assert after.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest() != before.sha256


async def test_a_damaged_cache_only_costs_time(tmp_path: Path, weights: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "sha256.json").write_bytes(b"\xff{")
    assert (await ModelStore(cache).sha256(weights)).sha256 == SHA256


async def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, weights: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert (await ModelStore(blocked / "cache", later).sha256(weights)).sha256 == SHA256


async def test_what_is_no_readable_file_is_told_with_a_remedy(tmp_path: Path, weights: Path) -> None:
    link, fifo = tmp_path / "link.gguf", tmp_path / "fifo.gguf"
    link.symlink_to(weights)
    os.mkfifo(fifo)
    store = ModelStore(tmp_path / "cache")
    for path, message, remedy in (
        (tmp_path / "absent.gguf", "does not exist", "models.path"),
        (link, "symbolic link", str(weights.resolve())),
        (fifo, "not a file", "model file itself"),
        (tmp_path, "not a file", "model file itself"),
    ):
        with pytest.raises(ModelError, match=message) as refused:
            await store.verify("m", path)
        assert refused.value.message.startswith("model m: ")
        assert remedy in refused.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_a_file_without_the_right_to_read_is_told_with_the_command(tmp_path: Path, weights: Path) -> None:
    weights.chmod(0)
    with pytest.raises(ModelError, match="may not be read") as refused:
        await ModelStore(tmp_path / "cache").sha256(weights)
    assert "chmod" in refused.value.remedy
