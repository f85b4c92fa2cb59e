"""Where calibrations lie, and which of them count."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from agent.core.checks.calibration import Device, Work, draft_file
from agent.core.manifest import ModelFile, ModelManifest
from agent.edges.models.demo import CHAT_TEMPLATE, FILE_NAME, NAME, SHA256, demo_parts
from agent.edges.models.thresholds import shelf
from tests import builders
from tests.calibrations import ENGINE, KEYS, calibration, shelved, written

OTHER = "sha256:" + "cd" * 32


def test_the_demos_model_comes_with_a_calibration_for_the_demos_engine():
    weights = ModelFile(path=FILE_NAME, bytes=sum(part.stat().st_size for part in demo_parts()), sha256=SHA256)
    page = CHAT_TEMPLATE.read_bytes()
    template = ModelFile(path="chat-template.jinja", bytes=len(page), sha256=sha256(page).hexdigest())
    digest = ModelManifest(name=NAME, files=(weights, template)).digest
    found = shelf()
    assert found.faults == ()
    assert found.thresholds_for(digest, ENGINE, device=Device.CPU)
    assert found.engines_of(digest) == (ENGINE,)


def test_a_model_has_thresholds_for_the_engine_that_was_measured_and_no_other(tmp_path: Path):
    found = shelved(tmp_path)
    assert found.faults == ()
    limits = found.thresholds_for(builders.MODEL, ENGINE)
    assert limits is not None
    assert limits.closeness == 0.26
    assert found.thresholds_for(builders.MODEL, "llama-server b2") is None
    assert found.thresholds_for(OTHER, ENGINE) is None
    assert found.thresholds_for(builders.MODEL, ENGINE, args=("-ctk", "q4_0")) is None
    assert found.thresholds_for(builders.MODEL, ENGINE, embeds=True) is None
    assert found.thresholds_for(builders.MODEL, ENGINE, device=Device.CPU) == limits
    assert found.thresholds_for(builders.MODEL, ENGINE, device=Device.GPU) is None


def test_embeddings_have_a_calibration_of_their_own(tmp_path: Path):
    pooling = ("--pooling", "mean")
    found = shelved(tmp_path, work=Work.EMBEDDING, args=pooling)
    limits = found.thresholds_for(builders.MODEL, ENGINE, embeds=True, args=pooling)
    assert limits is not None
    assert limits.parallel == 0.9974
    assert found.thresholds_for(builders.MODEL, ENGINE, args=pooling) is None


def test_the_owners_directory_counts_when_its_publisher_is_trusted(tmp_path: Path):
    written(tmp_path)
    (tmp_path / "README").write_text("not a calibration")
    assert shelf(tmp_path, [KEYS.public_key]).thresholds_for(builders.MODEL, ENGINE)
    strange = shelf(tmp_path)
    assert strange.thresholds_for(builders.MODEL, ENGINE) is None
    assert [fault.check for fault in strange.faults] == ["calibration_key"]


def test_one_bad_file_is_told_and_spoils_no_other(tmp_path: Path):
    written(tmp_path)
    (tmp_path / "a.json").write_bytes(b"{")
    (tmp_path / "b.json").mkdir()
    (tmp_path / "c.json").write_bytes(draft_file(calibration(OTHER)))
    found = shelf(tmp_path, [KEYS.public_key])
    assert found.thresholds_for(builders.MODEL, ENGINE)
    checks = {fault.path.name: fault.check for fault in found.faults}
    assert checks == {"a.json": "calibration_format", "b.json": "unreadable", "c.json": "calibration_draft"}


def test_a_directory_that_is_not_there_is_told(tmp_path: Path):
    (fault,) = shelf(tmp_path / "absent").faults
    assert (fault.check, fault.message) == ("unreadable", "it cannot be read: No such file or directory")


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1])
def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path, size: int):
    (tmp_path / "huge.json").write_bytes(b" " * size)
    (fault,) = shelf(tmp_path).faults
    assert fault.check == "calibration_format"
