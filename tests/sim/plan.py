"""What a seed means: a fleet, tasks, faults with their times, and how bad the network is in between."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

NODES = (2, 3, 3, 4)
QUIET_S = 200.0
"""After the last fault: longer than the longest backoff, a lease and a deadline together."""


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """One task: when it is asked for, how long it computes, how its engine behaves, when it is cancelled."""

    number: int
    at: float
    tokens: int
    token_s: float
    deadline_s: float
    cancel_after_s: float | None = None
    program: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong at `at` and is mended `lasts` later. `node` is its victim where it has one."""

    number: int
    at: float
    kind: str
    node: int = 0
    lasts: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        return f"#{self.number} {self.kind} node {self.node} at {self.at:.1f} for {self.lasts:.1f} ({self.amount:.2f})"


@dataclass(frozen=True, slots=True)
class Noise:
    """Chances per message while the network is as usual."""

    drop: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    confuse: float = 0.0
    """A receipt that was meant for another result."""
    engine: float = 0.0
    """A task whose engine crashes, babbles or stops early."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run depends on."""

    seed: int
    horizon_s: float
    """Faults end here."""
    slots: tuple[int, ...]
    drifts: tuple[float, ...]
    lease_s: float
    unstarted_s: float
    session_s: float
    rate_micros: int
    """Of results that are challenged."""
    answer_s: float
    validators: int
    tasks: tuple[TaskPlan, ...]
    faults: tuple[Fault, ...]
    noise: Noise

    def without_faults(self, numbers: set[int]) -> Plan:
        return replace(self, faults=tuple(f for f in self.faults if f.number not in numbers))

    def without_tasks(self, numbers: set[int]) -> Plan:
        return replace(self, tasks=tuple(t for t in self.tasks if t.number not in numbers))


KINDS = {
    # kind: (weight, shortest, longest) in seconds
    "node_crash": (6, 0.5, 25),
    "node_gone": (2, 60, 150),
    "node_trap": (4, 0.5, 25),
    "coordinator_trap": (4, 0.2, 30),
    "coordinator_crash": (4, 0.2, 30),
    "freeze_node": (4, 1, 60),
    "freeze_coordinator": (2, 1, 30),
    "cut_up": (3, 2, 90),
    "cut_down": (4, 2, 90),
    "cut_both": (5, 2, 120),
    "slow_up": (3, 5, 60),
    "slow_down": (4, 5, 60),
    "fade": (8, 20, 100),
    "straggler": (6, 30, 90),
    "wall_jump": (4, 5, 120),
    "wall_wild": (2, 5, 120),
    "disk_full": (3, 1, 60),
    "disk_slow": (3, 1, 60),
    "store_slow": (2, 1, 30),
    "store_fails": (1, 0.5, 20),
    "engine_crash": (4, 1, 30),
    "drain_exit": (4, 1, 20),
    "drain_ask": (2, 2, 60),
    "pause": (3, 2, 60),
    "directive": (3, 2, 60),
}


STEPS_A_SECOND = 105
"""Measured: steps that a run takes for each second of its faults, the quiet at the end included."""


def plan_for(seed: int, steps: int) -> Plan:
    """A plan whose run has about so many steps."""
    return plan_of(seed, steps / STEPS_A_SECOND)


def plan_of(seed: int, horizon_s: float) -> Plan:
    """Draw everything from the seed."""
    chance = random.Random(seed)
    nodes = chance.choice(NODES)
    bad = chance.random() < 0.7
    noise = Noise(
        drop=chance.uniform(0, 0.08) * bad,
        duplicate=chance.uniform(0, 0.08) * bad,
        late=chance.uniform(0, 0.05) * bad,
        confuse=chance.choice([0.0, 0.0, 0.1]),
        engine=chance.choice([0.0, 0.1, 0.3]),
    )
    return Plan(
        seed=seed,
        horizon_s=horizon_s,
        slots=tuple(chance.randint(1, 3) for _ in range(nodes)),
        drifts=tuple(chance.uniform(-0.001, 0.001) for _ in range(nodes)),
        lease_s=chance.choice([20.0, 40.0, 40.0]),
        unstarted_s=10.0,
        session_s=chance.choice([20.0, 90.0, 600.0]),
        rate_micros=chance.choice([1_000_000, 1_000_000, 500_000]),
        answer_s=chance.choice([60.0, 200.0]),
        validators=chance.choice([0, 1, 2, 2]),
        tasks=tuple(_tasks(chance, horizon_s, nodes)),
        faults=tuple(_faults(chance, horizon_s, nodes)),
        noise=noise,
    )


def _tasks(chance: random.Random, horizon_s: float, nodes: int) -> list[TaskPlan]:
    count = max(4, int(horizon_s * nodes / 12))
    tasks = []
    for number in range(count):
        tokens = chance.choice([1, 3, 12, 40])
        lasts_s = chance.choice([0.1, 2.0, 15.0, 50.0, 90.0])
        tasks.append(
            TaskPlan(
                number=number,
                at=round(chance.uniform(0, horizon_s), 3),
                tokens=tokens,
                token_s=round(lasts_s / tokens, 3),
                deadline_s=chance.choice([30.0, 120.0, 600.0, 600.0]),
                cancel_after_s=round(chance.uniform(0, 60), 3) if chance.random() < 0.1 else None,
                program=chance.random() < 0.25,
            )
        )
    return sorted(tasks, key=lambda task: task.at)


def _faults(chance: random.Random, horizon_s: float, nodes: int) -> list[Fault]:
    kinds, weights = list(KINDS), [weight for weight, _, _ in KINDS.values()]
    faults = []
    at = chance.expovariate(1 / 15)
    while at < horizon_s:
        kind = chance.choices(kinds, weights)[0]
        _, shortest, longest = KINDS[kind]
        faults.append(
            Fault(
                number=len(faults),
                at=round(at, 3),
                kind=kind,
                node=chance.randrange(nodes),
                lasts=round(min(chance.uniform(shortest, longest), horizon_s - at + 1), 3),
                amount=round(chance.random(), 3),
            )
        )
        at += chance.expovariate(1 / 15)
    return faults
