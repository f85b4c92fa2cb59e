"""One run: a plan is played on the loop, every step is looked at, and in the end everything must be closed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from agent.core.model import ChatInput, Message, TaskSpec
from agent.devnet.core.records import ENDED
from agent.devnet.core.rules import ProofRules, Rules
from tests.sim.authority import Authority
from tests.sim.engine import number_of
from tests.sim.faults import Faults
from tests.sim.loop import Owner, SimLoop
from tests.sim.machine import Machine
from tests.sim.network import Network
from tests.sim.plan import QUIET_S, Noise, Plan, TaskPlan
from tests.sim.requester import SimRequester
from tests.sim.store import StoreDisk
from tests.sim.truth import Truth, Violation

COURT_S = 500.0
"""An epoch, an answer, and rounds of validators who are replaced."""
PROBES = 3
"""Tasks that are asked for after everything is mended: all of them must be done."""


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    plan: Plan
    steps: int
    seconds: float
    """Virtual."""
    violation: Violation | None
    digest: str
    trace: list[str] = field(repr=False)
    counts: dict[str, int]
    margin_s: float
    stop_margin_s: float


class World:
    """Everything that there is."""

    def __init__(self, plan: Plan, loop: SimLoop) -> None:
        self.plan, self.loop = plan, loop
        self.noise = plan.noise
        self.trace: list[str] = []
        self.by_owner: dict[Owner, Machine] = {}
        self.truth = Truth(self)
        self.network = Network(self, self.chance("network"))
        store = StoreDisk(self.truth)
        self.rules = _rules(plan)
        self.authority = Authority(self, store, self.rules, self.chance("coordinator"))
        self.machines = [
            Machine(self, index, slots, plan.drifts[index], self.chance(f"node {index}"))
            for index, slots in enumerate(plan.slots)
        ]
        store.enrol(machine.record for machine in self.machines)
        self._indexes = {machine.node_id: machine.index for machine in self.machines}
        self._plans = {task.number: task for task in plan.tasks}
        self.requester = SimRequester(self, self.chance("requester"))
        self.done = False

    def chance(self, name: str) -> random.Random:
        """Each part has its own, so that what one of them draws does not move the others."""
        return random.Random(f"{self.plan.seed}/{name}")

    def note(self, line: str) -> None:
        self.trace.append(f"{self.loop.time():9.3f} {line}")

    def index_of(self, node_id: str) -> int:
        return self._indexes[node_id]

    def task_of(self, task: TaskSpec) -> TaskPlan:
        return self._plans[number_of(task)]

    def prompt(self, number: int) -> ChatInput:
        return ChatInput(messages=(Message(role="user", content=str(number)),))

    # ------------------------------------------------------------------ the course of events

    def begin(self) -> None:
        self.authority.start()
        for machine in self.machines:
            machine.start()
        for task in self.plan.tasks:
            self.requester.plan(task)
        faults = Faults(self)
        for fault in self.plan.faults:
            self.loop.root.spawn(faults.strike(fault), f"fault {fault.number}")
        self.loop.root.spawn(self._course(), "course")
        self.loop.root.spawn(self._see_who_is_able(), "able")

    async def _see_who_is_able(self) -> None:
        while True:
            for machine in self.machines:
                self.truth.proofs.able(machine.index, able=self._is_able(machine))
            await asyncio.sleep(1)

    def _is_able(self, machine: Machine) -> bool:
        """Whether no fault hinders it, or the coordinator."""
        index, network, authority = machine.index, self.network, self.authority
        line = index not in network.cut_up | network.cut_down and index not in network.slow_up | network.slow_down
        disks = not machine.disk.full and machine.disk.write_s < 1 and authority.disk.write_s < 1
        runs = machine.alive and not machine.owner.frozen and not machine.leaving
        serves = authority.alive and not authority.owner.frozen and not authority.desk.fault
        return line and disks and runs and serves

    async def _course(self) -> None:
        await asyncio.sleep(self.plan.horizon_s + 2)
        self._mend()
        work_s = sum(task.tokens * task.token_s for task in self.plan.tasks) / sum(self.plan.slots)
        await asyncio.sleep(5)
        first = max(self._plans, default=0) + 1
        for number in range(first, first + PROBES):
            probe = TaskPlan(
                number=number, at=self.loop.time(), tokens=2, token_s=0.5, deadline_s=QUIET_S + 2 * work_s + 400
            )
            self._plans[number] = probe
            self.requester.plan(probe)
        limit = self.loop.time() + QUIET_S + COURT_S + 2 * work_s
        while not self._quiet(first):
            await asyncio.sleep(1)
            if self.loop.time() > limit:
                self.truth.violated("not live", self._what_is_open(first))
                break
        self.truth.at_the_end()
        self.done = True

    def _mend(self) -> None:
        self.note("everything is mended")
        self.noise = Noise()
        self.network.cut_up.clear()
        self.network.cut_down.clear()
        self.network.stragglers.clear()
        self.network.slow_up.clear()
        self.network.slow_down.clear()
        self.authority.owner.doom = None
        for machine in self.machines:
            machine.owner.doom = None
            machine.owner.thaw()
            machine.disk.full, machine.disk.write_s = False, 0.004
            if not machine.leaving:
                machine.start()
            machine.ask("resume")
            if machine.alive and not machine.engine.facts.ready:
                machine.owner.call(machine.engine.ready, True)
        self.authority.owner.thaw()
        self.authority.disk.write_s, self.authority.disk.fails = 0.004, False
        if self.authority.alive and self.authority.desk.fault:
            self.authority.crash()
        if not self.authority.alive:
            self.authority.start()

    def _quiet(self, first: int) -> bool:
        for machine in self.machines:
            machine.start()  # one that was leaving when all was mended
            machine.ask_to_serve()
        progress = self.authority.disk.progress
        return (
            self.requester.idle
            and len(progress) == len(self.authority.disk.demands)
            and all(it.state in ENDED for it in progress.values())
            and all(not it.disk.rows and not it.node.attempts for it in self.machines)
            and all(self.requester.settled(number) for number in range(first, first + PROBES))
            and self.truth.proofs.is_quiet(self.authority.disk)
        )

    def _what_is_open(self, first: int) -> str:
        tasks = {it: p.state.value for it, p in self.authority.disk.progress.items() if p.state not in ENDED}
        nodes = {it.index: (it.node.state.value, list(it.disk.rows), len(it.node.attempts)) for it in self.machines}
        probes = [self.requester.settled(number) for number in range(first, first + PROBES)]
        cases = self.truth.proofs.what_is_open(self.authority.disk)
        return f"tasks {tasks}, nodes {nodes}, probes {probes}, requester idle {self.requester.idle}, {cases}"


def _rules(plan: Plan) -> Rules:
    return Rules(
        lease_s=plan.lease_s,
        unstarted_s=plan.unstarted_s,
        price_micros_per_million_tokens=1_000_000,
        proofs=ProofRules(
            rate_micros=plan.rate_micros,
            epoch_s=15.0,
            answer_s=plan.answer_s,
            verify_s=40.0,
            validators=plan.validators,
            canary_micros=0,
            keep_s=60.0,
        ),
    )


@contextlib.contextmanager
def told_faults(told: list[str]) -> Iterator[None]:
    """No logs, but the one that tells of a bug in an attempt."""

    def keep(_logger: object, _method: str, event: structlog.types.EventDict) -> str:
        if event["event"] in ("attempt.fault", "attempt.impossible"):
            error = sys.exc_info()[1]
            told.append(f"{event} {error!r}")
        raise structlog.DropEvent

    before = structlog.get_config()
    logging.disable(logging.CRITICAL)
    structlog.configure(
        processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(40), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.disable(logging.NOTSET)


def play(plan: Plan, *, most_steps: int | None = None) -> Outcome:
    """Run a plan to its end, to its first violation, or for so many steps."""
    told: list[str] = []
    with warnings.catch_warnings(), told_faults(told), SimLoop(random.Random(f"{plan.seed}/order")) as loop:
        warnings.simplefilter("ignore", RuntimeWarning)  # a killed process leaves coroutines that never began
        world = World(plan, loop)
        _turn(world, told, most_steps)
        return _outcome(world)


def _turn(world: World, told: list[str], most_steps: int | None) -> None:
    loop, truth = world.loop, world.truth
    world.begin()
    while not world.done and not truth.violations:
        owner = loop.step()
        if owner is None:
            truth.violated("dead", "nothing will ever happen again")
            return
        if (machine := world.by_owner.get(owner)) is not None and machine.owner is owner:
            machine.look()
        if told or loop.faults:
            truth.violated("agent fault", (told or loop.faults)[0])
        if most_steps is not None and loop.steps >= most_steps:
            return


def _outcome(world: World) -> Outcome:
    truth = world.truth
    return Outcome(
        plan=world.plan,
        steps=world.loop.steps,
        seconds=world.loop.time(),
        violation=truth.violations[0] if truth.violations else None,
        digest=hashlib.sha256("\n".join(world.trace).encode()).hexdigest(),
        trace=world.trace,
        counts=dict(truth.counts),
        margin_s=truth.margin_s,
        stop_margin_s=truth.stop_margin_s,
    )
