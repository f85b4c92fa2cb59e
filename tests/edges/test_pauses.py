from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import StorageError
from agent.core.pauses import NODE, KeptPause
from agent.edges.pauses import FILE_NAME, PausesFile

KEPT = [KeptPause(device=NODE), KeptPause(device="GPU-1", until_at=1_700_000_000.0)]


def test_what_is_kept_is_read_back_by_the_next_life(tmp_path: Path) -> None:
    PausesFile(tmp_path).keep(KEPT)
    assert PausesFile(tmp_path).load() == KEPT


def test_there_is_no_file_while_nothing_is_paused(tmp_path: Path) -> None:
    PausesFile(tmp_path).keep(KEPT)
    PausesFile(tmp_path).keep([])
    assert list(tmp_path.iterdir()) == []
    assert list(PausesFile(tmp_path).load()) == []


@pytest.mark.parametrize("damage", [b"", b"[{", b"{}", b"\xff\xfe", b'[{"device": 1}]'])
def test_a_damaged_file_is_not_taken_for_none_and_the_next_pauses_replace_it(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    with pytest.raises(StorageError, match=r"pauses\.json is damaged"):
        PausesFile(tmp_path).load()
    PausesFile(tmp_path).keep(KEPT)
    assert PausesFile(tmp_path).load() == KEPT


def test_a_file_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        PausesFile(tmp_path).load()
    with pytest.raises(StorageError, match="cannot write"):
        PausesFile(tmp_path).keep([])
