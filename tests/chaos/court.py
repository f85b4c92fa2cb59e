"""A storm in a court: every result is challenged, nodes check one another, and programs run among the chats.

Nothing is damaged here: what a node loses with its disk it cannot open, and pays for.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agent.core.errors import LinkError
from agent.core.model import ChatInput, ExecInput, ExecLimits, Message
from agent.devnet.core.asking import SamplingAsked
from agent.devnet.core.proofs.records import CaseState
from agent.devnet.requester import Requester
from agent.edges.models.store import ModelStore
from tests.calibrations import KEYS, written
from tests.chaos.coordinator import CoordinatorProcess
from tests.chaos.records import Records, records_of
from tests.chaos.storm import SETTLE_S, Fault, Storm, StormNode, node_of
from tests.scenarios.test_programs import packed, programs
from tests.tiny_model import write_tiny_model

NAMES = ("north", "south", "east")
RULES = (
    *("--challenge-rate", "1", "--epoch", "1", "--validators", "2"),
    *("--answer-s", "300", "--verify-s", "20"),
)
LIMITS = ExecLimits(memory_bytes=64 << 20, out_bytes=1 << 20, wall_s=30)
SCRIPT = "#!/bin/sh\necho $1 | tee /out/said\nsleep 0.2\n"
POOL = """[proof]
validate = true
calibrations = "PLACE"
calibration_keys = ["KEY"]
[[models]]
name = "tiny"
path = "PLACE/tiny.gguf"
[[pools]]
name = "tiny"
model = "tiny"
device = "cpu"
slots = 1
threads = 1
context_tokens = 512
"""


class CourtStorm(Storm):
    """`rage`, then `settle`, then `judged`, then `calm`."""

    def __init__(
        self, seed: int, coordinator: CoordinatorProcess, nodes: list[StormNode], small_disks: bool, digest: str
    ) -> None:
        super().__init__(seed, coordinator, nodes, small_disks)
        self._hard: list[Fault] = [self.kill]
        self._kinds = random.Random(f"{seed}/kinds")
        self._digest = digest
        self._bundle, self._signed = packed({"run": SCRIPT})

    async def _submit(self, name: str) -> str:
        kind = self._kinds.choice(["held", "tiny", "tiny", "program"])
        if kind == "held":
            return await super()._submit(name)
        return await self._asking(lambda requester: self._ask_for(requester, kind, name))

    async def _ask_for(self, requester: Requester, kind: str, name: str) -> str:
        if kind == "program":
            await requester.upload(self._bundle)
            asked = ExecInput(bundle=self._signed, argv=("/bundle/run", name), limits=LIMITS)
            return await requester.run(asked, request_key=name)
        chat = ChatInput(messages=(Message(role="user", content=name),))
        options = SamplingAsked(temperature_micros=0, min_p_micros=0)
        return await requester.submit(self._digest, chat, max_tokens=40, sampling=options, request_key=name)

    async def judged(self) -> Records:
        """What the coordinator wrote down, once every case is judged and every node has heard of it."""
        limit = time.monotonic() + SETTLE_S
        while open_ := self._what_is_unheard(found := await asyncio.to_thread(self.records)):
            stories = [node.agent.story() for node in self._nodes]
            assert time.monotonic() < limit, "\n".join([open_, self._coordinator.story(), *stories])
            await asyncio.sleep(0.3)
        return found

    def records(self) -> Records:
        return records_of(self._coordinator.state, [node.agent.home / "state" for node in self._nodes])

    def _what_is_unheard(self, found: Records) -> str:
        waiting = [case.case_id for case in found.cases if case.state is not CaseState.JUDGED]
        unheard = found.unheard()
        return f"not judged: {waiting}, not heard: {unheard}" if waiting or unheard or not found.all_drawn() else ""

    def told(self) -> dict[str, Any]:
        return {**super().told(), **self.records().told()}


@contextlib.asynccontextmanager
async def court(home: Path, seed: int) -> AsyncIterator[tuple[CourtStorm, list[StormNode]]]:
    """Three nodes on one coordinator, all processes; each answers, validates and runs programs in a sandbox."""
    home.chmod(0o755)  # a sandbox's user reads the model
    weights = write_tiny_model(home / "tiny.gguf", letters_only=True)
    digest = (await ModelStore(home / "store").verify("tiny", weights)).facts.digest
    written(home, digest)
    more = programs(memory_mib=64) + POOL.replace("PLACE", str(home)).replace("KEY", KEYS.public_key)
    async with contextlib.AsyncExitStack() as stack:
        coordinator = CoordinatorProcess(home / "coordinator", *RULES)
        await coordinator.start()
        stack.push_async_callback(coordinator.kill)
        nodes = [await node_of(stack, coordinator, home / name, more) for name in NAMES]
        await _ready(coordinator, pools=3)
        yield CourtStorm(seed, coordinator, nodes, all(node.small_disk for node in nodes), digest), nodes


async def _ready(coordinator: CoordinatorProcess, *, pools: int) -> None:
    async with asyncio.timeout(SETTLE_S), coordinator.requester() as requester:
        while True:
            with contextlib.suppress(LinkError):
                prints = [node.fingerprint for node in (await requester.nodes()).nodes]
                ready = [sum(pool.ready for pool in it.pools) for it in prints if it]
                if ready == [pools] * len(NAMES):
                    return
            await asyncio.sleep(0.1)
