"""One agent as a process, and the coordinator beside it, for one measurement."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import psutil

from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.rules import Rules

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 120.0
T = TypeVar("T")


class BenchNode:
    """An agent with its own directories. Its log goes into a file, as a service manager would take it."""

    def __init__(
        self, coordinator: Coordinator, *, transport: str = "websocket", pools: str = "", gpu: str = ""
    ) -> None:
        self._coordinator = coordinator
        self.home = Path(tempfile.mkdtemp(prefix="gb-"))
        self.config = self.home / "config.toml"
        self.process: subprocess.Popen[bytes] | None = None
        (self.home / "token").write_text(coordinator.enrol_token())
        self.config.write_text(
            f'[node]\nname = "{self.home.name}"\nstate_dir = "{self.home}/state"\ncache_dir = "{self.home}/cache"\n'
            f'runtime_dir = "{self.home}/run"\n'
            f'[coordinator]\nurl = "{coordinator.url}"\nenrol_token_file = "{self.home}/token"\n'
            f'transport = "{transport}"\n[gpu]\n{gpu or "enabled = false"}\n'
            f'[metrics]\nenabled = false\n[logs]\nformat = "json"\nlevel = "info"\n{pools}'
        )

    def start(self, *arguments: str) -> None:
        """Start `python *arguments` with the agent's environment."""
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={k: v for k, v in os.environ.items() if not k.startswith("GPU_AGENT_")},
            )

    async def beaten(self, pools: int = 1) -> None:
        """Wait until the coordinator has heard a beat of it that tells of `pools` ready pools."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._heard(pools):
                if self.process is None or self.process.poll() is not None:
                    raise RuntimeError(f"the agent ended:\n{self.log_tail()}")
                await asyncio.sleep(0.002)

    def _heard(self, pools: int) -> bool:
        for node in self._coordinator.desk.book.nodes.values():
            if node.record.name == self.home.name and node.state:
                known = node.fingerprint.pools if node.fingerprint else ()
                return sum(pool.ready for pool in known) >= pools
        return False

    def forget(self) -> None:
        """Of the last life, so that `beaten` waits for the next one's first beat."""
        for node in self._coordinator.desk.book.nodes.values():
            if node.record.name == self.home.name:
                node.state = ""

    def log_tail(self) -> str:
        return (self.home / "log").read_text(errors="replace")[-4000:]

    @property
    def ps(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def cpu_s(self) -> float:
        """Of the daemon alone, in user and kernel."""
        times = self.ps.cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """At once: a drain would wait for the coordinator, whose loop is this thread's. Children end with it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.asynccontextmanager
async def coordinator(**rules: float) -> AsyncIterator[Coordinator]:
    """The embedded coordinator with its usual rules."""
    with tempfile.TemporaryDirectory(prefix="gb-") as home:
        async with Coordinator(Path(home) / "c", options=Options(rules=Rules(**rules))) as running:
            yield running


def seconds(work: Callable[[], T]) -> tuple[float, T]:
    """How long it took."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
