"""The real supervisor against an engine that is out to harm it, in the real sandbox: every trick of malicious.py.

`python -m tests.edges.engines.siege` runs all of them in one process and prints JSON: what each came to, and what it
cost that process. A process of its own, so that its peak of memory means something.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.config import LogFormat, LogsConfig
from agent.core.errors import EngineError
from agent.core.model import CompletionInput, Sampling, TaskSpec
from agent.edges import logs
from agent.edges.clock import SystemClock
from agent.edges.engines.launch import LlamaSettings
from agent.edges.engines.llama import EngineFacts, LlamaPool, Tempo
from agent.edges.engines.openai import Patience
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.ports import Finished, Limits
from tests.patience import PATIENCE_S

AT_ONCE = 14
PATIENCE = Patience(connect_s=5.0, first_token_s=4.0, idle_s=2.0, reply_s=8.0)
"""Replies of 4 MiB must come through on a busy machine before their limit can."""
TEMPO = Tempo(load_s=20.0, poll_s=0.05, health_every_s=0.2, health_s=2.0, misses=2, stop_s=0.3, restart_cap_s=5.0)
IMPATIENT = msgspec.structs.replace(TEMPO, load_s=1.5, health_s=0.5)
"""For engines that are never ready: nothing else would end the wait."""
ASKED = TaskSpec(
    task_id="t",
    model_digest="",
    input=CompletionInput(prompt="hello"),
    sampling=Sampling(seed=7, temperature_micros=0),
    max_tokens=8,
)


class Case(NamedTuple):
    trick: str
    at: str

    @property
    def name(self) -> str:
        return f"{self.trick}, {self.at}"

    @property
    def never_ready(self) -> bool:
        """And does not end by itself either."""
        return (self.at in ("/health", "socket") and self.trick != "die") or self.trick == "never listens"


class Came(msgspec.Struct):
    """What a case came to."""

    ready: bool
    """Whether the engine was ever believed to be ready."""
    detail: str = ""
    """What the pool told of itself when it was not, or not any more."""
    reason: str = ""
    """Why the task failed; empty when it did not or was never run."""
    message: str = ""
    requests: list[str] = []
    """Digests of the requests that the answers are bound to."""
    left: list[str] = []
    """What stayed in the socket directory afterwards."""
    visits: int = 0
    """Connections to the host's own socket."""


class Report(msgspec.Struct):
    cases: dict[str, Came]
    base_bytes: int
    peak_bytes: int
    descriptors_before: int
    descriptors_after: int
    largest_gap_s: float
    """The longest that the loop did not come round to a beat that is due every 50 ms."""


class Besieged:
    """One pool with one such engine."""

    def __init__(self, case: Case, room: Path, weights: Path) -> None:
        self._case = case
        self._sockets = room / "sockets"
        self._sockets.mkdir(parents=True)
        self._visits = 0
        self._changed = asyncio.Event()
        target = room / "host.sock"
        self._host = socket.socket(socket.AF_UNIX)
        self._host.bind(str(target))
        self._host.listen()
        self._host.setblocking(False)
        target.chmod(0o777)
        engine = room / "engine" / "llama-server"
        engine.parent.mkdir()
        shutil.copy(Path(__file__).with_name("malicious.py"), engine)
        for place in (room, engine.parent, engine):
            place.chmod(0o755)
        settings = LlamaSettings(
            name="siege",
            binary=engine,
            model="tiny",
            model_digest="sha256:" + "0" * 64,
            weights=weights,
            socket_dir=self._sockets,
            context_tokens=512,
            slots=2,
            args=("--trick", case.trick, "--at", case.at, "--target", str(target)),
            limits=Limits(pids=64, memory_bytes=256 << 20),
        )
        self.pool = LlamaPool(
            settings,
            sandbox=Bubblewrap(room),
            clock=SystemClock(),
            measure=_measured,
            top_logprobs=4,
            patience=PATIENCE,
            tempo=IMPATIENT if case.never_ready else TEMPO,
            rand=random.random,
        )

    async def came(self) -> Came:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._host, self._visited)
        running = asyncio.create_task(self.pool.run(self._changed.set))
        came = Came(ready=False)
        try:
            async with asyncio.timeout(PATIENCE_S):
                came.ready = await self._settled()
                if came.ready:
                    await self._ask(came)
                await self._until_told(came)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            loop.remove_reader(self._host)
            self._host.close()
        came.left = sorted(path.name for path in self._sockets.iterdir())
        came.visits = self._visits
        return came

    def _visited(self) -> None:
        self._visits += 1
        self._host.accept()[0].close()

    async def _settled(self) -> bool:
        """Until the engine is ready or has been given up once."""
        while True:
            facts = self.pool.facts
            if facts.ready or (
                facts.detail and "starting" not in facts.detail and "not been started" not in facts.detail
            ):
                return facts.ready
            self._changed.clear()
            await self._changed.wait()

    async def _ask(self, came: Came) -> None:
        two_at_once = self._case.trick == "an answer to somebody else"
        prompts = ("hello", "good-bye") if two_at_once else ("hello",)
        await asyncio.gather(*(self._generate(prompt, came) for prompt in prompts))

    async def _generate(self, prompt: str, came: Came) -> None:
        try:
            async for output in self.pool.generate(
                msgspec.structs.replace(ASKED, input=CompletionInput(prompt=prompt))
            ):
                if isinstance(output, Finished):
                    came.requests.append(output.request_sha256)
        except EngineError as fault:
            came.reason, came.message = fault.reason.value, str(fault)

    async def _until_told(self, came: Came) -> None:
        """What it says of itself; of one that died, once that is noticed."""
        while came.reason == "engine_crashed" and self.pool.facts.ready:
            self._changed.clear()
            await self._changed.wait()
        came.detail = self.pool.facts.detail


async def _measured() -> EngineFacts:
    return EngineFacts("e" * 64, "some processor")


async def siege(cases: list[Case], place: Path) -> Report:
    weights = place / "tiny.gguf"
    weights.write_bytes(b"no weights")
    weights.chmod(0o644)
    await Besieged(Case("", ""), place / "honest", weights).came()  # so that all is imported
    base, descriptors = _status("VmHWM"), len(os.listdir("/proc/self/fd"))
    gate, beats = asyncio.Semaphore(AT_ONCE), Beats()

    async def one(number: int, case: Case) -> Came:
        async with gate:
            return await Besieged(case, place / str(number), weights).came()

    beating = asyncio.create_task(beats.run())
    came = await asyncio.gather(*(one(number, case) for number, case in enumerate(cases)))
    beating.cancel()
    return Report(
        cases={case.name: found for case, found in zip(cases, came, strict=True)},
        base_bytes=base,
        peak_bytes=_status("VmHWM"),
        descriptors_before=descriptors,
        descriptors_after=len(os.listdir("/proc/self/fd")),
        largest_gap_s=beats.largest_gap_s,
    )


class Beats:
    """A heartbeat in the same loop."""

    largest_gap_s = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(0.05)
            now = loop.time()
            self.largest_gap_s = max(self.largest_gap_s, now - last)
            last = now


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


if __name__ == "__main__":
    logs.configure(LogsConfig(format=LogFormat.CONSOLE))
    wanted = [Case(*pair) for pair in json.load(sys.stdin)]
    with tempfile.TemporaryDirectory(prefix="ga-") as directory:
        Path(directory).chmod(0o755)
        print(msgspec.json.encode(asyncio.run(siege(wanted, Path(directory)))).decode())
