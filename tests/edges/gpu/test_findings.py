from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import StorageError
from agent.core.findings import Advice, Finding, Severity
from agent.edges.gpu.findings import FILE_NAME, FindingsFile

XID = Finding(
    code="xid_119",
    severity=Severity.LOSES,
    gpu_uuid="GPU-1",
    evidence="Xid 119",
    advice=Advice.RESET,
    source="kernel",
    lasts=True,
    boot_id="boot-1",
    since_at=1_700_000_000.0,
)


def test_what_is_kept_is_read_back_by_the_next_life(tmp_path: Path) -> None:
    FindingsFile(tmp_path).keep([XID])
    assert FindingsFile(tmp_path).load() == [XID]


def test_nothing_kept_is_nothing_found(tmp_path: Path) -> None:
    assert list(FindingsFile(tmp_path).load()) == []


@pytest.mark.parametrize("damage", [b"", b"[{", b"{}", b"\xff\xfe", b'[{"code": 1}]'])
def test_a_damaged_file_starts_an_agent_all_the_same_and_is_kept_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    assert list(FindingsFile(tmp_path).load()) == []
    assert (tmp_path / "gpu-findings.json.corrupt").read_bytes() == damage
    FindingsFile(tmp_path).keep([XID])
    assert FindingsFile(tmp_path).load() == [XID]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gpu-findings"):
        FindingsFile(tmp_path / "missing").keep([XID])
