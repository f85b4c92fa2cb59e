"""A bounded share of the simulation for every test run; `make sim` plays a million steps and more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.plan import plan_of
from tests.sim.world import play


@pytest.mark.parametrize("seed", range(1, 11))
def test_whatever_goes_wrong_the_promises_hold(seed: int) -> None:
    outcome = play(plan_of(seed, 200.0))
    assert outcome.violation is None, "\n".join([str(outcome.violation), *outcome.trace[-80:]])
    assert outcome.counts["settlements"] > 0
    assert outcome.counts["case judged"] > 0


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second = play(plan_of(3, 150.0)), play(plan_of(3, 150.0))
    assert first.trace == second.trace
    assert first.digest != play(plan_of(4, 150.0)).digest


def test_another_process_writes_the_same_trace_byte_for_byte() -> None:
    def written(hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "tests.sim", "--seed", "3", "--steps", "5000"]
        root = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True).stdout

    first = written("1")
    assert b"every promise held" in first
    assert first == written("2")
