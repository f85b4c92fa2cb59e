"""Power limits: lowered, noted before, and given back, whatever happened between. On both fake drivers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from agent.cli.main import run
from agent.core.power import Kept, Limits, lowered, noted, to_restore
from agent.edges.gpu.power import FILE_NAME, PowerError, PowerLimits
from tests.fakes.nvml.build import Placed

CARD = "PowerManagementLimitConstraints = 100000 600000\nPowerManagementLimit = {now}\n"
TWO = ("[gpu0]\nUUID = GPU-0\nName = A\n" + CARD.format(now=450000) + "[gpu1]\nUUID = GPU-1\nName = B\n") + CARD.format(
    now=150000
)


@pytest.mark.parametrize(
    ("wanted_w", "now_w", "sets_w"),
    [(200, 450, 200), (50, 450, 100), (450, 450, None), (500, 450, None), (50, 100, None)],
)
def test_a_limit_is_only_ever_lowered_and_not_below_what_the_driver_takes(wanted_w, now_w, sets_w) -> None:
    limit = lowered(wanted_w, Limits(now_mw=now_w * 1000, lowest_mw=100_000))
    assert limit == (sets_w and sets_w * 1000)


def test_what_somebody_else_has_set_since_stands() -> None:
    kept = Kept(before_mw=450_000, set_mw=200_000)
    assert (to_restore(kept, 200_000), to_restore(kept, 300_000)) == (450_000, None)


def test_what_somebody_else_has_set_between_two_runs_is_what_the_gpu_had() -> None:
    earlier = Kept(before_mw=450_000, set_mw=200_000)
    mine, others = Limits(now_mw=200_000, lowest_mw=100_000), Limits(now_mw=300_000, lowest_mw=100_000)
    assert noted(150_000, mine, earlier) == Kept(before_mw=450_000, set_mw=150_000)
    assert noted(150_000, others, earlier) == Kept(before_mw=300_000, set_mw=150_000)


@pytest.fixture
def limits(in_process, tmp_path: Path) -> Callable[[], PowerLimits]:
    """As a new process would see them, on the same driver."""
    in_process(TWO)
    driver = pynvml.nvmlLib

    def opened() -> PowerLimits:
        pynvml.nvmlLib = driver
        return PowerLimits(tmp_path)

    opened.driver = driver
    return opened


def test_limits_are_set_and_given_back(limits, tmp_path: Path) -> None:
    assert list(limits().hold(200, None)) == ["GPU-0: 200 W instead of 450 W", "GPU-1: 150 W, not above 200 W"]
    assert limits.driver.limits == {"gpu0": 200_000}
    assert list(limits().hold(50, None)) == [
        "GPU-0: 100 W instead of 200 W, the least that its driver takes",
        "GPU-1: 100 W instead of 150 W, the least that its driver takes",
    ]
    assert list(limits().give_back()) == ["GPU-0: 450 W again", "GPU-1: 150 W again"]
    assert limits.driver.limits == {"gpu0": 450_000, "gpu1": 150_000}
    assert list(limits().give_back()) == []


def test_a_limit_that_was_set_and_never_given_back_is_given_back_by_the_next_run(limits, tmp_path: Path) -> None:
    next(limits().hold(200, None))  # killed here
    assert json.loads((tmp_path / FILE_NAME).read_bytes())["gpus"] == {
        "GPU-0": {"before_mw": 450_000, "set_mw": 200_000}
    }
    list(limits().hold(120, None))
    assert list(limits().give_back()) == ["GPU-0: 450 W again", "GPU-1: 150 W again"]


def test_nothing_is_changed_that_cannot_be_noted(limits, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(PowerError):
        list(limits().hold(200, None))
    assert limits.driver.limits == {}


def test_a_gpu_that_refuses_keeps_none_of_the_others_from_being_given_back(limits) -> None:
    list(limits().hold(120, None))
    limits.driver._scenario.faults.append(fault("nvmlDeviceSetPowerManagementLimit", gpu=0))
    limits.driver._calls.append(0)
    with pytest.raises(PowerError, match="does not set GPU-0 to 450 W: no permission"):
        list(limits().give_back())
    assert limits.driver.limits == {"gpu0": 120_000, "gpu1": 150_000}


def test_a_gpu_that_refuses_keeps_none_of_the_others_from_being_held(limits) -> None:
    limits.driver._scenario.faults.append(fault("nvmlDeviceSetPowerManagementLimit", gpu=0))
    limits.driver._calls.append(0)
    assert list(limits().hold(120, None)) == [
        "the driver does not set GPU-0 to 120 W: no permission. It takes root",
        "GPU-1: 120 W instead of 150 W",
    ]
    assert list(limits().give_back()) == ["GPU-1: 150 W again"]


def test_a_driver_that_refuses_every_gpu_is_a_failure(limits) -> None:
    for gpu in (0, 1):
        limits.driver._scenario.faults.append(fault("nvmlDeviceSetPowerManagementLimit", gpu=gpu))
        limits.driver._calls.append(0)
    with pytest.raises(PowerError, match="does not set GPU-0"):
        list(limits().hold(120, None))
    assert list(limits().give_back()) == []


def fault(name: str, gpu: int):
    from tests.fakes.nvml.scenario import CODES, FOREVER, Fault

    return Fault(name, gpu, 0.0, FOREVER, 0, CODES["NO_PERMISSION"], 0.0, False, False)


def test_a_card_without_a_limit_is_told_and_left_alone(in_process, tmp_path: Path) -> None:
    in_process("laptop")
    (told,) = PowerLimits(tmp_path).hold(30, None)
    assert "has no power limit that can be set: not supported" in told


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the verb as the unit does; gives exit status, output and complaints."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    tmp_path.chmod(0o755)

    def called(what: str, driver: Placed, watts: str = "power_limit_w = 250") -> tuple[int, str, str]:
        config = tmp_path / "config.toml"
        config.write_text(f'[gpu]\nlibrary = "{driver.library}"\n[owner]\n{watts}\n')
        status = run(["power", "--config", str(config), what])
        return status, *capsys.readouterr()

    return called


def test_the_verb_holds_and_gives_back_on_a_compiled_driver(place, power) -> None:
    driver = place("geforce")
    kept = driver.folder / "power.0"
    assert power("hold", driver, "")[:2] == (0, "owner.power_limit_w is not set: nothing to do\n")
    assert not kept.exists()
    status, out, _ = power("hold", driver)
    assert (status, "250 W instead of 450 W" in out, kept.read_text()) == (0, True, "250000")
    assert power("give-back", driver, "power_limit_w = [broken")[0] == 0, "whatever the configuration says by now"
    assert kept.read_text() == "450000"


def _loose_file(tmp_path: Path, _: Placed) -> None:
    (tmp_path / "config.toml").chmod(0o664)


def _loose_link(tmp_path: Path, _: Placed) -> None:
    """Who may write in the folder may point the link at another file of root's."""
    (tmp_path / "own").mkdir(mode=0o755)
    (tmp_path / "config.toml").rename(tmp_path / "own" / "config.toml")
    (tmp_path / "config.toml").symlink_to(tmp_path / "own" / "config.toml")
    tmp_path.chmod(0o775)


def _loose_library(_: Path, driver: Placed) -> None:
    driver.library.chmod(0o775)


@pytest.mark.parametrize("loosen", [_loose_file, _loose_link, _loose_library])
@pytest.mark.parametrize("named", [True, False], ids=["by the command", "by the environment"])
def test_root_takes_nothing_that_others_can_write(
    place, power, tmp_path: Path, loosen, named: bool, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root is careful about this")
    driver = place("geforce")
    power("hold", driver, "")
    config = tmp_path / "config.toml"
    config.write_text(config.read_text() + "power_limit_w = 250\n")
    loosen(tmp_path, driver)
    monkeypatch.setenv("GPU_AGENT_CONFIG", str(config))
    status = run(["power", *(["--config", str(config)] if named else []), "hold"])
    driver.library.chmod(0o755)
    assert (status, "who would decide what root loads" in capsys.readouterr().err) == (78, True)
    assert not (driver.folder / "power.0").exists()
