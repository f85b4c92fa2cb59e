"""One soak: load and weather over a field of processes, read at a steady beat; then calm, and everything is counted."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.chaos.traces import own_cgroups
from tests.soak import gauges
from tests.soak.field import Field, SoakAgent, field
from tests.soak.load import Load
from tests.soak.verdict import Point, Rule, Verdict, judge
from tests.soak.weather import Weather

SETTLE_S = 120.0
ANSWER_S = 0.2
"""For a process to write its inner gauges."""


class Plan(NamedTuple):
    """How long, how much."""

    seconds: float
    seed: int = 1
    tasks_a_second: float = 8.0
    fault_every_s: float = 6.0
    real: bool = True

    @property
    def warm_s(self) -> float:
        """Caches fill, allocators find their size, the last hard fault of the steady processes is over."""
        return min(self.seconds / 3, 600.0)

    @property
    def read_every_s(self) -> float:
        """A few hundred readings."""
        return max(1.0, self.seconds / 400)


class Line(NamedTuple):
    """One gauge of one process, judged."""

    subject: str
    gauge: str
    rule: Rule
    verdict: Verdict


class Result(NamedTuple):
    """What a soak came to."""

    plan: Plan
    lines: list[Line]
    ends: dict[str, dict[str, int]]
    weather: dict[str, int]
    lives: dict[str, int]
    faults: list[str]
    """Where the count does not come out even, and what was left behind."""

    @property
    def holds(self) -> bool:
        return not self.faults and not any(line.verdict.grows for line in self.lines)


class Soak:
    """Reads the gauges of everything in a field."""

    def __init__(self, plan: Plan, on: Field, load: Load) -> None:
        self._plan, self._field, self._load = plan, on, load
        self._began = time.monotonic()
        self._points: dict[tuple[str, str], list[Point]] = {}

    async def read_until(self, until: float) -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            pids = {name: pid for name, pid, _ in self._processes()}
            for pid in pids.values():
                gauges.ask_inner(pid)
            await asyncio.sleep(ANSWER_S)
            await asyncio.to_thread(self._read)
            await asyncio.sleep(max(0.0, began + self._plan.read_every_s - time.monotonic()))

    def _processes(self) -> Iterator[tuple[str, int, Path]]:
        yield "coordinator", self._field.coordinator.process.pid, self._field.home / "coordinator.json"
        for node in self._field.nodes:
            yield node.agent.home.name, node.agent.process.pid, _soaked(node.agent).told

    def _read(self) -> None:
        for name, pid, told in self._processes():
            self._take(name, gauges.of_process(pid, told), pid)
        self._take("coordinator", gauges.of_coordinator_disk(self._field.coordinator.state))
        for node in self._field.nodes:
            agent = _soaked(node.agent)
            self._take(agent.home.name, gauges.of_node_disk(agent.home / "state"))
            self._take(agent.home.name, gauges.of_places(agent.runtime, agent.temporary))

    def _take(self, subject: str, readings: Iterable[tuple[str, float]], life: int = 0) -> None:
        at = time.monotonic() - self._began
        for gauge, value in readings:
            self._points.setdefault((subject, gauge), []).append(Point(at, self._load.ended, value, life))

    def lines(self) -> list[Line]:
        """Every gauge that has a rule, judged."""
        found = []
        for subject in ("steady", "mortal", "coordinator"):
            rules = gauges.COORDINATOR if subject == "coordinator" else gauges.NODE
            for gauge, rule in rules.items():
                points = self._points.get((subject, gauge), [])
                found.append(Line(subject, gauge, rule, judge(points, rule, self._plan.warm_s)))
        return found


async def soak(plan: Plan) -> Result:
    """Everything from the first process to the last one's end."""
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        async with field(Path(home), real=plan.real) as on:
            load = Load(plan.seed, on.models, on.coordinator.requester, plan.tasks_a_second)
            weather = Weather(plan.seed, on.coordinator, on.nodes, every_s=plan.fault_every_s)
            watch = Soak(plan, on, load)
            began = time.monotonic()
            until = began + plan.seconds
            try:
                async with asyncio.timeout(plan.seconds + SETTLE_S), asyncio.TaskGroup() as group:
                    group.create_task(watch.read_until(until))
                    group.create_task(_calm_after(weather, on, until, began + plan.warm_s))
                    group.create_task(load.ask_until(until))
            except BaseException:
                for node in on.nodes:
                    print(f"{node.agent.home.name}:\n{node.agent.story()}", file=sys.stderr)
                print(f"coordinator:\n{on.coordinator.story()}", file=sys.stderr)
                raise
            paid = await on.coordinator.ledger()
            left = await _leave(on)
        ends = {name: dict(sorted(counts.items())) for name, counts in load.table().items()}
        bad = [line for node in on.nodes for line in (*_soaked(node.agent).bad, *node.agent.noise)]
        lives = {node.agent.home.name: node.starts for node in on.nodes}
        return Result(
            plan, watch.lines(), ends, dict(sorted(weather.faults.items())), lives, load.faults(paid) + bad + left
        )


async def _calm_after(weather: Weather, on: Field, until: float, warm_at: float) -> None:
    await weather.blow(until, warm_at)
    for node in on.nodes:
        node.proxy.heal()


async def _leave(on: Field) -> list[str]:
    """Have the nodes drain and end; returns what they left behind."""
    left = []
    for node in on.nodes:
        agent = _soaked(node.agent)
        below = psutil.Process(agent.process.pid).children(recursive=True)
        node.agent.signal(signal.SIGTERM)
        status = await node.agent.ended()
        drained = agent.events("drain.ended")[-1]
        checks = {
            "exit status": status,
            "undelivered": drained["undelivered"],
            "abandoned": drained.get("abandoned"),
            "processes": [process.pid for process in below if process.is_running()],
            "cgroups": [str(place) for place in own_cgroups(agent.runtime)],
            "sockets and directories": [str(path) for path in agent.runtime.rglob("*") if path.is_socket()],
            "temporary files": [str(path) for path in agent.temporary.rglob("*")],
        }
        left += [f"{agent.home.name} left {what}: {value}" for what, value in checks.items() if value]
    return left


def _soaked(agent: object) -> SoakAgent:
    assert isinstance(agent, SoakAgent)
    return agent
