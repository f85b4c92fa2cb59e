"""`gpu-agent coordinator` as a process that dies and comes back on its port with its memory."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

from agent.devnet.requester import Requester
from tests.patience import PATIENCE_S
from tests.scenarios.world import ROOT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class CoordinatorProcess:
    """Leases are short, so that a storm of seconds holds many."""

    program: tuple[str, ...] = ("-m", "agent")
    """What Python runs."""

    def __init__(self, state: Path, *options: str, lease_s: float = 5.0, beat_s: float = 0.5) -> None:
        self.state = state
        self._told = state.with_suffix(".log")
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._options = (
            *("--state-dir", str(state), "--port", str(self._port)),
            *("--lease-s", str(lease_s), "--beat-s", str(beat_s), "--unstarted-s", "2"),
            *options,
        )

    async def start(self) -> None:
        """Returns when it serves."""
        with self._told.open("ab") as told:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *self.program, "coordinator", *self._options),
                stdout=asyncio.subprocess.PIPE,
                stderr=told,
                cwd=ROOT,
            )
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self.process.stdout.readline()
        assert line.startswith(b"serving "), line

    def story(self) -> str:
        """Whether it runs, and what it said last."""
        return f"exit status {self.process.returncode}\n{self._told.read_text(errors='replace')[-4000:]}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    def requester(self) -> Requester:
        return Requester(self.url, (self.state / "requester.token").read_text().strip())

    async def ledger(self) -> list[str]:
        """Tasks paid for, one entry a payment."""
        async with self.requester() as requester:
            return [line.task_id for line in (await requester.ledger()).lines]
