"""From a failing plan to a small one that still fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace

from tests.sim.plan import Noise, Plan
from tests.sim.world import Outcome, play

LIMIT_S = 60.0
Play = Callable[[Plan], Outcome]


class Shrinker:
    """Drops faults, tasks and kinds of noise while the same invariant still breaks."""

    def __init__(self, failed: Outcome, play_it: Play = play, limit_s: float = LIMIT_S) -> None:
        assert failed.violation is not None
        self._name = failed.violation.name
        self._play = play_it
        self._until = time.monotonic() + limit_s
        self.best = failed

    def run(self) -> Outcome:
        """The smallest failure that was found in time."""
        before = -1
        while before != (now := _size(self.best.plan)) and time.monotonic() < self._until:
            before = now
            self._drop([f.number for f in self.best.plan.faults], Plan.without_faults)
            self._drop([t.number for t in self.best.plan.tasks], Plan.without_tasks)
            self._quieten()
        return self.best

    def _drop(self, numbers: list[int], without: Callable[[Plan, set[int]], Plan]) -> None:
        """Half of them, then quarters, and so on down to single ones."""
        chunk = max(len(numbers) // 2, 1)
        while numbers and time.monotonic() < self._until:
            for start in range(0, len(numbers), chunk):
                gone = numbers[start : start + chunk]
                if self._still_fails(without(self.best.plan, set(gone))):
                    numbers = [number for number in numbers if number not in gone]
                    break
            else:
                if chunk == 1:
                    return
                chunk = max(chunk // 2, 1)

    def _quieten(self) -> None:
        for field in fields(Noise):
            if getattr(self.best.plan.noise, field.name):
                noise = replace(self.best.plan.noise, **{field.name: 0.0})
                self._still_fails(replace(self.best.plan, noise=noise))

    def _still_fails(self, plan: Plan) -> bool:
        outcome = self._play(plan)
        if outcome.violation is None or outcome.violation.name != self._name:
            return False
        self.best = outcome
        return True


def _size(plan: Plan) -> int:
    return len(plan.faults) + len(plan.tasks) + sum(bool(getattr(plan.noise, field.name)) for field in fields(Noise))
