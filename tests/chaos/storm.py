"""A storm of real faults over two nodes and their coordinator, from one seed; then calm, and everything is counted.

The same seed gives the same faults at the same moments of the storm; what they hit differs from run to run, for the
processes are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from agent.core.errors import LinkError
from agent.core.model import ChatInput, Message
from agent.core.wire import ReceiptStatus
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.core.rules import Refused
from agent.devnet.requester import Requester
from agent.devnet.views import TaskView
from agent.edges.outbox import OUTBOX_NAME, read_ledger
from tests.chaos.coordinator import CoordinatorProcess
from tests.chaos.engine import SlowEngine
from tests.chaos.extent import SECONDS
from tests.scenarios.proxy import Proxy
from tests.scenarios.world import AgentProcess, external

T = TypeVar("T")
MODEL = "sha256:" + "ab" * 32
SETTLE_S = 90.0 + SECONDS / 2
"""What piled up in the storm is worked off at twice the rate at which it came, at least."""
FOLLOWED = 32
"""Tasks that are waited for at once: each has a connection."""
STATE_MIB = 16 + int(SECONDS / 8)
"""A state directory that is filled in a moment, but not by what a node keeps of its tasks: some 6 KiB each."""
Fault = Callable[["StormNode", random.Random], Awaitable[None]]


class StormNode:
    """An agent with its engine and its own line to the coordinator."""

    def __init__(self, agent: AgentProcess, proxy: Proxy, engine: SlowEngine, *, small_disk: bool) -> None:
        self.agent = agent
        self.proxy = proxy
        self.engine = engine
        self.small_disk = small_disk
        self.starts = 0
        self.lock = asyncio.Lock()
        """Held by who does something to it."""

    async def start(self) -> None:
        self.starts += 1
        await self.agent.start()

    async def kill(self) -> None:
        await self.agent.kill()

    @property
    def outbox(self) -> Path:
        return self.agent.home / "state" / OUTBOX_NAME


class Storm:
    """`async with storm(home, seed) as it: await it.rage(20); await it.calm()`."""

    def __init__(self, seed: int, coordinator: CoordinatorProcess, nodes: list[StormNode], small_disks: bool) -> None:
        self._chance = random.Random(seed)
        self._coordinator = coordinator
        self._nodes = nodes
        self._followed = asyncio.Semaphore(FOLLOWED)
        self.faults: Counter[str] = Counter()
        self.tasks: list[str] = []
        self.views: list[TaskView] = []
        self._mild: list[Fault] = [
            *(self.cut, self.silence, self.no_answers, self.no_questions, self.slow, self.engine_crash, self.stop)
        ]
        self._hard: list[Fault] = [self.kill, self.kill, self.damage]
        if small_disks:
            self._mild.append(self.fill_disk)

    # ------------------------------------------------------------------ the storm

    async def rage(self, seconds: float) -> None:
        """Tasks come in while faults strike both nodes and the coordinator."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask(until))
            for node in self._nodes:
                group.create_task(self._strike(node, until, random.Random(self._chance.random())))
            group.create_task(self._strike_coordinator(until, random.Random(self._chance.random())))

    async def _ask(self, until: float) -> None:
        number = 0
        while time.monotonic() < until:
            number += 1
            self.tasks.append(await self._submit(f"task {number}"))
            await asyncio.sleep(0.15)

    async def _submit(self, name: str) -> str:
        """The task's id, once the coordinator has it."""
        asked = ChatInput(messages=(Message(role="user", content=name),))
        options = SamplingAsked(min_p_micros=0)

        async def submit(requester: Requester) -> str:
            return await requester.submit(MODEL, asked, max_tokens=16, sampling=options, request_key=name)

        return await self._asking(submit)

    async def _asking(self, work: Callable[[Requester], Awaitable[T]]) -> T:
        """Until the coordinator answers."""
        while True:
            try:
                async with self._coordinator.requester() as requester:
                    return await work(requester)
            except (LinkError, Refused, OSError):
                await asyncio.sleep(0.1)

    async def _strike(self, node: StormNode, until: float, chance: random.Random) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(0.3, 1.2))
            fault = chance.choice(self._hard if chance.random() < 0.4 else self._mild)
            self.faults[fault.__name__] += 1
            await fault(node, chance)

    async def _strike_coordinator(self, until: float, chance: random.Random) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(1.5, 4.0))
            if chance.random() < 0.7:
                self.faults["coordinator_killed"] += 1
                await self._coordinator.kill()
                await asyncio.sleep(chance.uniform(0.0, 0.5))
                await self._coordinator.start()
            else:
                self.faults["coordinator_stopped"] += 1
                self._coordinator.signal(signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.2, 2.0))
                self._coordinator.signal(signal.SIGCONT)

    # ------------------------------------------------------------------ faults of a node and its line

    async def kill(self, node: StormNode, chance: random.Random) -> None:
        await node.kill()
        await node.start()

    async def stop(self, node: StormNode, chance: random.Random) -> None:
        """Sometimes for longer than a lease."""
        node.agent.signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.2, 6.0))
        node.agent.signal(signal.SIGCONT)

    async def damage(self, node: StormNode, chance: random.Random) -> None:
        """The outbox is found broken, cut short or set back at the next start."""
        await node.kill()
        await asyncio.to_thread(spoil, node.outbox, chance)
        await node.start()

    async def cut(self, node: StormNode, chance: random.Random) -> None:
        node.proxy.cut()
        await self._for_a_while(node, chance)

    async def silence(self, node: StormNode, chance: random.Random) -> None:
        node.proxy.silence()
        await self._for_a_while(node, chance)

    async def no_answers(self, node: StormNode, chance: random.Random) -> None:
        """The coordinator acts, and its answers are lost."""
        node.proxy.silence(up=False)
        await self._for_a_while(node, chance)

    async def no_questions(self, node: StormNode, chance: random.Random) -> None:
        """The coordinator never hears of it."""
        node.proxy.silence(down=False)
        await self._for_a_while(node, chance)

    async def slow(self, node: StormNode, chance: random.Random) -> None:
        node.proxy.delay_s = 0.2
        await self._for_a_while(node, chance)

    async def _for_a_while(self, node: StormNode, chance: random.Random) -> None:
        """Then half of the time the connections break, else what was held back arrives late."""
        await asyncio.sleep(chance.uniform(0.2, 2.5))
        if chance.random() < 0.5:
            node.proxy.reset()
        node.proxy.heal()

    async def engine_crash(self, node: StormNode, chance: random.Random) -> None:
        node.engine.crash()

    async def fill_disk(self, node: StormNode, chance: random.Random) -> None:
        filler = node.agent.home / "state" / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 14))
        await asyncio.sleep(chance.uniform(0.2, 2.5))
        filler.unlink()

    # ------------------------------------------------------------------ the calm

    async def calm(self) -> None:
        """No fault any more: wait until every task has ended, then let the nodes leave."""
        await self.settle()
        for node in self._nodes:
            node.agent.signal(signal.SIGTERM)

    async def settle(self) -> None:
        """No fault any more: wait until every task has ended."""
        for node in self._nodes:
            node.proxy.heal()
        following = [asyncio.create_task(self._result(task), name=task) for task in self.tasks]
        _, waiting = await asyncio.wait(following, timeout=SETTLE_S)
        for follower in waiting:
            follower.cancel()
        assert not waiting, await self._what_is_open([follower.get_name() for follower in waiting])
        self.views = [follower.result() for follower in following]
        self.paid = await self._coordinator.ledger()

    async def _result(self, task: str) -> TaskView:
        async with self._followed:
            return await self._asking(lambda requester: requester.result(task))

    async def _what_is_open(self, tasks: list[str]) -> str:
        views = [await self._asking(lambda requester, task=task: requester.task(task)) for task in tasks[:3]]
        stories = [*(node.agent.story() for node in self._nodes), self._coordinator.story()]
        return "\n".join(
            [f"{len(tasks)} of {len(self.tasks)} are open after {SETTLE_S:g} s", *map(str, views), *stories]
        )

    def paid_to(self) -> dict[str, list[str]]:
        """Task → whom it was paid to, by the nodes' own ledgers; one that was damaged may know less."""
        known: dict[str, list[str]] = {}
        for node in self._nodes:
            for line in read_ledger(node.outbox, 100_000):
                if line.status is ReceiptStatus.ACCEPTED and line.amount_micros:
                    known.setdefault(line.task_id, []).append(f"{node.agent.home.name}, attempt {line.attempt}")
        return known

    def told(self) -> dict[str, Any]:
        """What happened, in numbers."""
        return {
            "tasks": len(self.views),
            "states": dict(Counter(view.state.value for view in self.views)),
            "attempts": dict(sorted(Counter(view.attempt for view in self.views).items())),
            "paid": len(self.paid),
            "agent starts": sum(node.starts for node in self._nodes),
            "faults": dict(sorted(self.faults.items())),
            "outboxes put aside": sum(len(node.agent.events("outbox.recovered")) for node in self._nodes),
        }


def spoil(outbox: Path, chance: random.Random) -> None:
    """Break the file, or the log beside it that holds what was written last."""
    log = outbox.with_name(outbox.name + "-wal")
    victim = log if chance.random() < 0.5 else outbox
    kind, place = chance.random(), chance.random()
    if not victim.exists():
        return
    if victim is outbox:  # the log would mend the file, so that goes into it first
        with contextlib.closing(sqlite3.connect(outbox)) as database, contextlib.suppress(sqlite3.Error):
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = victim.stat().st_size
    if kind < 0.5:
        os.truncate(victim, int(size * place))
    else:
        with victim.open("r+b") as file:
            file.seek(int(size * place))
            file.write(chance.randbytes(4096))


@contextlib.asynccontextmanager
async def storm(home: Path, seed: int) -> AsyncIterator[tuple[Storm, list[StormNode]]]:
    """Two nodes on one coordinator, all processes."""
    async with contextlib.AsyncExitStack() as stack:
        coordinator = CoordinatorProcess(home / "coordinator")
        await coordinator.start()
        stack.push_async_callback(coordinator.kill)
        nodes = [await node_of(stack, coordinator, home / name) for name in ("north", "south")]
        for node in nodes:
            await node.agent.saw("session.opened")
        yield Storm(seed, coordinator, nodes, all(node.small_disk for node in nodes)), nodes


async def node_of(
    stack: contextlib.AsyncExitStack, coordinator: CoordinatorProcess, home: Path, more: str = ""
) -> StormNode:
    """A node that runs until `stack` is closed; `more`: of its configuration."""
    proxy = await stack.enter_async_context(Proxy(coordinator.url))
    engine = await stack.enter_async_context(SlowEngine())
    async with coordinator.requester() as requester:
        token = await requester.enrol_token()
    pools = more + external(engine.url, slots=2)
    agent = AgentProcess(home, pools, url=proxy.url, token=token, breaker_failures=100)
    node = StormNode(agent, proxy, engine, small_disk=_small_disk(stack, home / "state"))
    await node.start()
    stack.push_async_callback(agent.discard)
    return node


def _small_disk(stack: contextlib.AsyncExitStack, state: Path) -> bool:
    """A file system of its own for the state; only root may make one, and not everywhere."""
    state.mkdir(mode=0o700)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}m,mode=0700", "gpu-agent-chaos", state],
        capture_output=True,
        check=False,
    )
    if made.returncode == 0:
        stack.callback(lambda: subprocess.run(["umount", "-l", state], check=True))
    return made.returncode == 0
