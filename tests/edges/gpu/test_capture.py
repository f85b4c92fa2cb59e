"""A captured driver is the driver: what is read from it is read from its scenario again, but for what is hidden."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.cli.main import run
from agent.core.errors import AgentError
from agent.core.gpu import Gpu, GpuFault, GpuReport
from agent.edges.gpu.capture import Capture, captured, hidden_uuid
from agent.edges.gpu.nvml import DriverError, open_driver
from agent.edges.gpu.reader import Reader
from tests.fakes.nvml.scenario import load, parse

HOSTS = Path(__file__).parents[2] / "hosts"
ANSWERING = sorted(
    {path.stem for path in HOSTS.glob("*.ini")}
    - {"mismatch", "not_loaded", "denied", "no_gpu", "appears"}  # nothing to be read
    - {"hang_on_init"}
)


def read() -> GpuReport:
    reader = Reader(monotonic=lambda: 0.0)
    reader.open()
    return reader.read()


def capture() -> str:
    open_driver(("unused",))
    return "\n".join(Capture().lines())


def bared(gpu: Gpu) -> Gpu:
    slices = tuple(replace(part, uuid="") for part in gpu.mig)
    sample = replace(gpu.sample, slices=tuple(replace(part, uuid="") for part in gpu.sample.slices))
    return replace(gpu, uuid="", serial=gpu.serial and "", mig=slices, sample=sample)


@pytest.mark.parametrize("name", ANSWERING)
def test_a_captured_driver_reads_as_the_one_that_was_captured(in_process, name: str) -> None:
    in_process(name)
    before = read()

    text = capture()
    in_process(text)

    after = read()
    assert [bared(gpu) for gpu in after.gpus] == [bared(gpu) for gpu in before.gpus]
    assert (after.driver, after.cuda) == (before.driver, before.cuda)


def test_a_gpu_that_cannot_be_opened_is_captured_as_such(in_process) -> None:
    refusal = "[fault]\nfn = nvmlDeviceGetHandleByIndex*\ngpu = 1\nret = INSUFFICIENT_POWER\n"
    in_process("[gpu0]\nUUID = GPU-1\nName = A\n[gpu1]\nUUID = GPU-2\nName = B\n" + refusal)

    in_process(capture())

    assert [gpu.fault for gpu in read().gpus] == [None, GpuFault.TRANSIENT]


def test_nothing_that_names_the_machine_is_in_the_file(in_process) -> None:
    in_process("h200x8")

    text = capture()

    for scenario_line in (HOSTS / "h200x8.ini").read_text().splitlines():
        if scenario_line.startswith(("UUID", "Serial")):
            assert scenario_line.partition(" = ")[2].replace("{i}", "") not in text
    assert len(set(re.findall(r"^UUID = (GPU-\S+)$", text, re.MULTILINE))) == 8
    assert len(set(re.findall(r"^Serial = (\d{13})$", text, re.MULTILINE))) == 8


def test_a_hidden_uuid_keeps_its_kind_and_is_always_the_same() -> None:
    first, again, other = (hidden_uuid(name) for name in (b"MIG-1", b"MIG-1", b"MIG-2"))

    assert first == again != other
    assert re.fullmatch(rb"MIG-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first)


def test_odd_text_survives_the_file(in_process) -> None:
    in_process("[gpu0]\nUUID = GPU-1\nName = a\\x3b b\\x21\\x7bi} \\xff\\x1b[31m # =\n")

    text = capture()
    in_process(text)

    assert text.isascii()
    assert read().gpus[0].name == "a; b!{i} \N{REPLACEMENT CHARACTER} # ="


def test_the_verb_writes_a_file_that_the_fake_driver_serves(place, tmp_path: Path, capsys) -> None:
    file = tmp_path / "mine.ini"

    assert run(["gpus", "--library", str(place("mig").library), "--capture", str(file)]) == 0

    assert capsys.readouterr().out == f"written to {file}\n"
    assert load(file).gpus == 2
    served = place(file.read_text())
    assert run(["gpus", "--library", str(served.library)]) == 0
    assert "NVIDIA H200 MIG 3g.71gb  70.9 GiB" in capsys.readouterr().out


def test_a_driver_that_hangs_does_not_hang_the_capture(place) -> None:
    driver = place("hang")
    driver.at(5)

    with pytest.raises(AgentError, match="not answered for"):
        captured(driver.library, 0.5)


@pytest.mark.parametrize(("scenario", "words"), [("not_loaded", "not loaded"), ("crash", "status -6")])
def test_a_driver_that_cannot_be_captured_says_why(place, scenario: str, words: str) -> None:
    driver = place(scenario)
    driver.at(5)

    with pytest.raises(AgentError, match=words):
        captured(driver.library)


def test_a_driver_that_fails_as_a_whole_is_no_scenario(in_process) -> None:
    in_process("updated", lambda: 5.0)

    with pytest.raises(DriverError):
        capture()


def test_every_committed_scenario_has_a_gpu_or_says_why_not() -> None:
    assert parse((HOSTS / "no_gpu.ini").read_text(), HOSTS).gpus == 0
    assert all(load(HOSTS / f"{name}.ini").gpus for name in ANSWERING)
