"""Faults for hours: those of the chaos, less dense, and an owner who pauses and drains."""

from __future__ import annotations

import asyncio
import random
import signal
import time

from tests.chaos.coordinator import CoordinatorProcess
from tests.chaos.storm import Storm, StormNode


class Weather(Storm):
    """One node is killed again and again. The other one and the coordinator are killed while it warms up, and live on
    under all other faults: what grows slowly is seen in them.
    """

    def __init__(self, seed: int, coordinator: CoordinatorProcess, nodes: list[StormNode], *, every_s: float) -> None:
        super().__init__(seed, coordinator, nodes, small_disks=False)
        self._every_s = every_s
        self._mild += [self.engine_dies, self.pause, self.drain]
        self._hard = [self.kill]

    async def blow(self, until: float, warm_at: float) -> None:
        """Strike until then; both in monotonic seconds."""
        steady, mortal = self._nodes
        async with asyncio.TaskGroup() as group:
            group.create_task(self._weather(mortal, until, 0.4))
            group.create_task(self._weather(steady, until, 0.0))
            group.create_task(self._over_the_coordinator(until, warm_at))
            group.create_task(self._kill_early(steady, warm_at))

    async def _weather(self, node: StormNode, until: float, hard: float) -> None:
        chance = random.Random(self._chance.random())
        while await self._pause(chance, until):
            fault = chance.choice(self._hard if chance.random() < hard else self._mild)
            self.faults[fault.__name__] += 1
            async with node.lock:
                await fault(node, chance)

    async def _over_the_coordinator(self, until: float, warm_at: float) -> None:
        chance = random.Random(self._chance.random())
        while await self._pause(chance, until):
            if time.monotonic() < warm_at - 10:
                self.faults["coordinator_killed"] += 1
                await self._coordinator.kill()
                await asyncio.sleep(chance.uniform(0.0, 0.5))
                await self._coordinator.start()
            else:
                self.faults["coordinator_stopped"] += 1
                self._coordinator.signal(signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.2, 2.0))
                self._coordinator.signal(signal.SIGCONT)

    async def _kill_early(self, node: StormNode, warm_at: float) -> None:
        await asyncio.sleep(max(0.0, (warm_at - time.monotonic()) / 3))
        async with node.lock:
            self.faults["kill"] += 1
            await self.kill(node, self._chance)

    async def _pause(self, chance: random.Random, until: float) -> bool:
        """Wait for the next fault; False when there is none any more."""
        wait_s = self._every_s * chance.uniform(0.5, 1.5)
        await asyncio.sleep(min(wait_s, max(0.0, until - time.monotonic())))
        return time.monotonic() < until

    # ------------------------------------------------------------------ more faults

    async def engine_dies(self, node: StormNode, chance: random.Random) -> None:
        """And is back on its port after a while."""
        await node.engine.stop()
        await asyncio.sleep(chance.uniform(0.1, 2.0))
        await node.engine.start()

    async def pause(self, node: StormNode, chance: random.Random) -> None:
        await self._owner(node, "pause", chance)

    async def drain(self, node: StormNode, chance: random.Random) -> None:
        await self._owner(node, "drain", chance)

    async def _owner(self, node: StormNode, verb: str, chance: random.Random) -> None:
        """`gpu-agent pause` or `drain`, and later `resume`."""
        await node.agent.verb(verb)
        await asyncio.sleep(chance.uniform(0.5, 3.0))
        await node.agent.verb("resume")
