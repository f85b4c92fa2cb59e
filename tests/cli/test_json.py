"""The names in what `--json` prints: programs of owners read them, so they may be added to and do not go away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli.main import run

ORDINARY = {
    "version": {"agent", "protocol", "python", "kernel", "os"},
    "gpus": {"gpus", "driver", "cuda", "fault", "detail"},
    "doctor": {"exit_status", "findings"},
    "proofs": {"totals", "challenges", "judgements"},
    "posp": {
        "stake",
        "reward",
        "cost",
        "colluding",
        "detection",
        "bound",
        "rate",
        "rate_micros",
        "enough",
        "least_stake",
    },
}


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """What a verb prints as JSON, by a node that did nothing yet."""
    for name in ("STATE", "CACHE", "RUNTIME"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name))
    monkeypatch.setenv("GPU_AGENT_GPU__ENABLED", "false")

    def verb(*words: str) -> object:
        run([*words, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return verb


@pytest.mark.parametrize("verb", ORDINARY)
def test_the_names_that_programs_rely_on_are_there(told, verb: str) -> None:
    found = told(verb)
    assert isinstance(found, dict)
    assert set(found) >= ORDINARY[verb]


def test_each_finding_of_the_doctor_has_the_same_names(told) -> None:
    for finding in told("doctor")["findings"]:
        assert set(finding) == {"id", "actual", "required", "severity", "purpose", "remedy"}
        assert finding["severity"] in ("ok", "warn", "fail")
        assert finding["required"]
        assert bool(finding["remedy"]) == (finding["severity"] != "ok"), finding


def test_tasks_are_a_list_and_settings_an_object_of_their_keys(told) -> None:
    assert told("tasks") == []
    assert told("config", "show")["gpu.enabled"] is False
    assert told("config", "show", "--origin")["gpu.enabled"]["origin"] == "environment GPU_AGENT_GPU__ENABLED"
