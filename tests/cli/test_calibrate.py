"""`gpu-agent calibrate` on the real engine, with the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from agent.cli.calibrate import screen
from agent.cli.main import run
from agent.core.checks.calibration import (
    MARGIN,
    Calibration,
    CalibrationFault,
    Noise,
    Spread,
    Work,
    limits_of,
    read_calibration,
    signed_file,
)
from agent.core.errors import ProofError
from agent.edges.signing import KeyPair, verify
from tests import calibrations
from tests.sandboxes import require_sandbox
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_sandbox()
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    path.chmod(0o644)
    return path


def calibrate(weights: Path, out: Path, *more: object) -> int:
    quick = ("--threads", 1, "--slots", 2, "--context-tokens", 512, "--tokens", 32, "--chunks", 2, "--prompts", 2)
    return run([*map(str, ("calibrate", "tiny", "--weights", weights, "--out", out, *quick, *more))])


def test_honest_work_is_measured_and_a_draft_is_relied_upon_by_nobody(weights: Path, tmp_path: Path, capsys):
    out = tmp_path / "draft.json"
    assert calibrate(weights, out, "--draft", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["signed_by"] is None
    made = msgspec.convert(told["calibration"], Calibration)
    assert made.chunks >= 2
    assert made.prompts >= 2
    assert (made.engine, made.slots, made.args, made.work) == (calibrations.ENGINE, 2, (), Work.GENERATION)
    assert made.classes[0].startswith("F-")
    assert made.drawn > 0
    assert 0 < made.noise.closeness.most * MARGIN < made.limits.closeness  # the floor: one machine, one build
    with pytest.raises(ProofError) as refused:
        read_calibration(out.read_bytes(), [calibrations.KEYS.public_key], verify)
    assert refused.value.check == CalibrationFault.DRAFT


def test_an_engine_that_mixes_rows_up_on_several_slots_gets_no_limits(weights: Path, tmp_path: Path, capsys):
    # What this llama-server really does with `--pooling mean`: every second row of a request is another one.
    out = tmp_path / "draft.json"
    assert calibrate(weights, out, "--draft", "--embedding", "--engine-arg=--pooling", "--engine-arg=mean") == 1
    assert "no limit would tell a cheat from noise: rows astray by 0." in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--key", "k", "--new-key"), "2 chunks, 500 at least are wanted; 2 prompts, 50 at least are wanted"),
        (("--chunks", 500, "--prompts", 50), "--key names whose calibration it is"),
    ],
)
def test_too_little_is_not_even_begun_and_nothing_goes_unsigned_by_mistake(
    tmp_path: Path, capsys, more: tuple[object, ...], words: str
):
    assert calibrate(tmp_path / "tiny.gguf", tmp_path / "out.json", *more) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_nobody_configured_is_named(tmp_path: Path, capsys):
    config = tmp_path / "config.toml"
    config.write_text("")
    code = run(["calibrate", "absent", "--draft", "--out", str(tmp_path / "x.json"), "--config", str(config)])
    assert code == 2
    assert "no model absent with a file is configured" in capsys.readouterr().err


def test_the_summary_is_one_screen_with_what_was_measured_beside_the_limits(tmp_path: Path):
    keys = KeyPair.generate()
    noise = Noise(closeness=Spread(mean=0.1, p99=0.18, most=0.2), far=Spread(mean=0.02, p99=1, most=1))
    made = calibrations.calibration(noise=noise, limits=limits_of(noise))
    assert signed_file(made, keys.public_key, keys.sign)
    lines = list(screen(made, tmp_path / "x.json", keys.public_key))
    assert len(lines) <= 24
    assert "500 chunks of 50 prompts, 16000 tokens" in lines[2]
    assert [line.split()[-4:] for line in lines if line.startswith("F,")] == [["0.1000", "0.1800", "0.2000", "0.2600"]]
