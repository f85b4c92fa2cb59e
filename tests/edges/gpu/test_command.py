"""`gpu-agent gpus`, through the command line, on the compiled driver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli.main import run


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the verb with a configuration of its own; gives exit status and output."""

    def called(library: Path, *more: str) -> tuple[int, str]:
        config = tmp_path / "config.toml"
        config.write_text(f'[gpu]\nlibrary = "{library}"\n')
        monkeypatch.setenv("GPU_AGENT_CONFIG", str(config))
        status = run(["gpus", *more])
        return status, capsys.readouterr().out

    return called


def test_gpus_are_a_table_with_reasons_below(place, gpus) -> None:
    status, page = gpus(place("geforce").library)

    assert status == 0
    assert page.splitlines()[0] == "driver 570.86.10 · CUDA 12.8"
    assert "NVIDIA GeForce RTX 4090  1.1 / 24.0 GiB  7 %   44 °C  31 / 450 W" in page
    assert "0  ecc, mig_enabled: not supported by this card or driver" in page


def test_no_driver_is_a_cpu_pool_and_no_failure(place, gpus) -> None:
    driver = place("geforce")
    driver.hide()

    status, page = gpus(driver.library)

    assert status == 0
    assert page.startswith("no NVIDIA GPU: CPU pool only\n")
    assert "install or load the NVIDIA driver" in " ".join(page.split())


def test_a_driver_without_gpus_is_a_cpu_pool_and_no_failure(place, gpus) -> None:
    status, page = gpus(place("no_gpu").library)

    assert status == 0
    assert page.startswith("no NVIDIA GPU: CPU pool only\n")


def test_a_driver_that_cannot_be_read_is_a_failure_with_a_remedy(place, gpus) -> None:
    status, page = gpus(place("mismatch").library)

    assert status == 1
    assert page.startswith("the NVIDIA driver cannot be read: CPU pool only\n")
    assert "reboot" in page


def test_a_lost_gpu_is_named_below_the_table(place, gpus) -> None:
    driver = place("lost")
    driver.at(5)

    status, page = gpus(driver.library)

    assert status == 1
    assert "3  gpu lost: The GPU has fallen off the bus. Reboot" in page


@pytest.mark.parametrize(
    ("scenario", "at_s", "status", "words"),
    [
        ("h200x8", 0, 0, "7 NVIDIA H200"),
        ("wsl", 0, 0, "driver "),
        ("old_driver", 0, 0, "driver "),
        ("not_loaded", 0, 0, "no NVIDIA GPU: CPU pool only"),
        ("denied", 0, 1, "group `video`"),
        ("needs_reset", 5, 1, "nvidia-smi --gpu-reset"),
        ("crash", 5, 1, "crashed the probe process"),
        ("hang", 5, 1, "has not answered for 2 s"),
    ],
)
def test_every_kind_of_machine_has_its_words_and_status(
    place, gpus, scenario: str, at_s: float, status: int, words: str
) -> None:
    driver = place(scenario)
    driver.at(at_s)

    told, page = gpus(driver.library)

    assert (told, words in " ".join(page.split())) == (status, True), page


def test_what_tells_nothing_beside_the_driver_has_its_reason(place, gpus) -> None:
    assert "events: not supported by this card or driver" in gpus(place("wsl").library)[1]


def test_slices_are_listed(place, gpus) -> None:
    assert "0  NVIDIA H200 MIG 3g.71gb  70.9 GiB  MIG-0f0e0000" in gpus(place("mig").library)[1]


def test_nothing_of_the_driver_reaches_the_terminal_raw(place, gpus) -> None:
    assert "\x1b" not in gpus(place("odd_text").library)[1]


def test_json_has_every_field(place, gpus) -> None:
    status, page = gpus(place("geforce").library, "--json")

    report = json.loads(page)
    assert (status, report["driver"]) == (0, "570.86.10")
    assert report["gpus"][0]["sample"]["memory_used_bytes"] == 1199570944
    assert report["gpus"][0]["absent"]["ecc"] == "not supported by this card or driver"
    assert [(it["uuid"], it["state"]) for it in report["health"]] == [(report["gpus"][0]["uuid"], "healthy")]
    assert report["engines"] == [], "no daemon runs"


def test_json_tells_what_is_wrong_with_a_gpu(place, gpus) -> None:
    driver = place("needs_reset")
    driver.at(6)
    (told,) = [it for it in json.loads(gpus(driver.library, "--json")[1])["health"] if it["findings"]]
    assert (told["state"], told["findings"][0]["advice"]) == ("lost", "reset")
