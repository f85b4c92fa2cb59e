"""`gpu-agent posp`: how often to challenge, in a few plain lines."""

from __future__ import annotations

import json

import pytest

from agent.cli.main import run


@pytest.fixture
def posp(capsys: pytest.CaptureFixture[str]):
    def command(*options: object) -> tuple[int, str]:
        code = run(["posp", *map(str, options)])
        return code, capsys.readouterr().out

    return command


def test_it_says_how_often_and_why(posp) -> None:
    code, out = posp("--stake", 10, "--reward", 1, "--cost", 0.5)
    assert code == 0
    assert out.startswith("challenge 5.051 % of the results at least")
    assert "p × 100 % × 90 % × 11 > 0.5, so p > 0.0505" in out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "2.525 % 0.500 0.750 44 tasks cheating pays" in rows
    assert "5.051 % 0.500 0.500 22 tasks" in rows
    assert "10.1 % 0.500 0.000 11 tasks" in rows


@pytest.mark.parametrize("more", [(), ("--false-positives", 0.1, "--detection", 0.5), ("--stake", 0), ("--cost", 0)])
def test_it_fits_on_one_screen_and_needs_no_options(posp, more: tuple[object, ...]) -> None:
    _, out = posp(*more)
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 102


def test_where_honest_work_loses_too_only_what_pays_better_is_said_to_pay(posp) -> None:
    _, out = posp("--stake", 0.3, "--reward", 0.3)
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "92.59 % -0.200 -0.200 1 task" in rows
    assert "Honest work, too, loses 0.200 a task: nobody does it for a reward below its cost." in out


def test_a_tiny_share_is_not_rounded_to_nothing(posp) -> None:
    assert "so p > 1.11e-05." in posp("--stake", 50_000)[1]


def test_mistakes_that_cost_honest_nodes_much_are_pointed_out(posp) -> None:
    code, out = posp("--stake", 50, "--reward", 1, "--cost", 0.5, "--detection", 0.5, "--false-positives", 0.1)
    assert code == 0
    assert "Mistakes cost an honest node 0.1429 a task, 28.57 % of what it earns." in out
    assert "let only repeated or certain findings slash" in out
    code, out = posp("--stake", 50, "--reward", 1, "--cost", 0.5, "--false-positives", 0.001)
    assert "That is much" not in out


def test_where_no_share_is_enough_it_says_what_would_be(posp) -> None:
    code, out = posp("--stake", 0, "--reward", 1, "--cost", 2)
    assert code == 1
    assert "the stake must be over 1.22222" in out
    code, out = posp("--stake", 9, "--reward", 1, "--cost", 1, "--detection", 0.1, "--false-positives", 0.2)
    assert code == 1
    assert "no stake helps" in out


def test_programs_get_every_figure(posp) -> None:
    code, out = posp("--stake", 50, "--reward", 1, "--cost", 0.5, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["rate_micros"] == 10894
    assert told["honest"] > told["dishonest"]
    code, out = posp("--stake", 1, "--reward", 1, "--cost", 0.5, "--detection", 0, "--json")
    assert (code, json.loads(out)["bound"], json.loads(out)["least_stake"]) == (1, None, None)


@pytest.mark.parametrize("option", ["--stake", "--reward", "--cost", "--colluding"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e308"])
def test_what_is_no_number_is_refused(posp, option: str, value: str) -> None:
    assert posp(option, value) == (2, "")


def test_shares_beyond_one_are_refused(posp) -> None:
    assert posp("--stake", 1, "--reward", 1, "--cost", 1, "--colluding", 1.5)[0] == 2
