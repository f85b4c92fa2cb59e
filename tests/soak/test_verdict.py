"""The verdict of a soak catches what leaks and lets pass what only moves."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.soak.verdict import POINTS_MAX, POINTS_MIN, Point, Rule, judge, theil_sen, thinned

HOUR = 3600.0
MEMORY = Rule("MiB", 3.0)
Shape = Callable[[float, random.Random], float]


def life(shape: Shape, lasts_s: float, *, every_s: float = 1.0, tasks_a_second: float = 8.0) -> list[Point]:
    chance = random.Random(7)
    times = [number * every_s for number in range(int(lasts_s / every_s))]
    return [Point(at, int(at * tasks_a_second), shape(at, chance), 1) for at in times]


FLAT: dict[str, Shape] = {
    "constant": lambda at, chance: 60.0,
    "noise": lambda at, chance: 60.0 + chance.gauss(0, 2),
    "one peak": lambda at, chance: 160.0 if 150 < at < 170 else 60.0,
    "a sawtooth, as a write-ahead log": lambda at, chance: at % 37 / 9,
    "warm-up and no more": lambda at, chance: 40.0 + 20 * min(1.0, at / 90),
    "it settles ever more slowly": lambda at, chance: 60.0 - 20 * 2 ** (-at / 40),
    "it shrinks": lambda at, chance: 60.0 - at / 10,
}
LEAKS: dict[str, Shape] = {
    "a kilobyte and a half a task": lambda at, chance: 60.0 + at * 8 * 1.5 / 1024 + chance.gauss(0, 0.2),
    "a step now and then": lambda at, chance: 60.0 + 2 * (at // 40),
    "under a sawtooth": lambda at, chance: at % 37 / 9 + at / 40,
    "hidden behind peaks": lambda at, chance: 60.0 + at / 60 + (100 if chance.random() < 0.05 else 0),
}


@pytest.mark.parametrize("name", FLAT)
def test_what_moves_without_growing_is_flat(name: str) -> None:
    assert judge(life(FLAT[name], 300), MEMORY, 100).grows is False


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_caught(name: str) -> None:
    assert judge(life(LEAKS[name], 420), MEMORY, 100).grows is True


def test_hours_catch_what_minutes_cannot() -> None:
    slow = life(lambda at, chance: 60.0 + at * 8 * 0.05 / 1024 + chance.gauss(0, 0.5), 4 * HOUR, every_s=30.0)
    assert judge(slow[: len(slow) // 40], MEMORY, 60).grows is not True
    assert judge(slow, MEMORY, 600).grows is True


def test_what_each_task_may_leave_is_allowed_and_no_more() -> None:
    ledger = Rule("MiB", 0.5, a_task=4 / 1024)
    assert judge(life(lambda at, chance: at * 8 * 3.5 / 1024, 300), ledger, 60).grows is False
    assert judge(life(lambda at, chance: at * 8 * 5 / 1024, 300), ledger, 60).grows is True


def test_what_is_kept_for_a_while_may_not_grow_for_longer() -> None:
    transcripts = Rule("MiB", 0.5, a_task=4 / 1024, kept_s=120)
    kept = life(lambda at, chance: min(at, 120.0) * 8 * 4 / 1024, 1200)
    never_swept = life(lambda at, chance: at * 8 * 4 / 1024, 1200)
    assert judge(kept, transcripts, 150).grows is False
    assert judge(never_swept, transcripts, 150).grows is True


def test_only_one_life_is_judged_the_longest_and_each_warms_up() -> None:
    lives = [Point(at, at, 60.0 + at % 30, at // 30) for at in range(90)]
    assert judge(lives, MEMORY, 20).grows is None
    steady = [Point(at, at, 61.0, 9) for at in range(90, 200)]
    assert judge(lives + steady, MEMORY, 20).grows is False


def test_too_few_readings_are_no_verdict() -> None:
    few = life(LEAKS["a step now and then"], POINTS_MIN - 1)
    assert judge(few, MEMORY, 0).grows is None
    assert judge([], MEMORY, 0).grows is None


def test_what_follows_the_load_is_judged_where_the_load_is_lowest() -> None:
    def load(at: float, chance: random.Random) -> float:
        return 25 + chance.random() ** 2 * (4 + at / 10)

    connections = Rule("", 3, lowest_of=8)
    assert judge(life(load, 300), connections._replace(lowest_of=1), 60).grows is True
    assert judge(life(load, 300), connections, 60).grows is False
    leaks = life(lambda at, chance: load(at, chance) + at // 40, 300)
    assert judge(leaks, connections, 60).grows is True


def test_many_readings_are_thinned_and_tell_the_same() -> None:
    many = life(lambda at, chance: at / 100 + chance.gauss(0, 1), 5000)
    assert len(thinned(many)) <= POINTS_MAX
    assert thinned(many)[-1] == many[-1]
    assert theil_sen([(p.at_s, p.value) for p in thinned(many)]) == pytest.approx(0.01, rel=0.05)
