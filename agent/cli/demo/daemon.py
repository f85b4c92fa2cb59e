"""The agent as its owner runs it: a process of its own, whose log the demo reads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

Line = dict[str, Any]
_KEPT_LINES = 40


class Daemon:
    """`gpu-agent run` with a configuration file. `heard` gets every log line."""

    def __init__(
        self, config: Path, log: Path, heard: Callable[[Line], None], run: Sequence[str] = ("agent", "run")
    ) -> None:
        """`run`: another module, and its arguments, in place of the honest agent."""
        self._argv = (sys.executable, "-m", *run, "--config", str(config))
        self._log = log
        self._heard = heard
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; readiness is told by the coordinator."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GPU_AGENT_")}
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is the demo's, which then asks for a drain
            limit=1 << 20,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process is not None and self._process.returncode is not None

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self._last)

    async def stop(self, limit_s: float) -> int:
        """Ask for a drain; kill after `limit_s`. Returns the exit status."""
        if self._process is None or self._reading is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                status = await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            status = await self._process.wait()
        await self._reading
        return status

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            return
        with self._log.open("ab") as log:
            while raw := await process.stderr.readline():
                log.write(raw)
                self._last.append(raw.decode(errors="replace").rstrip())
                with contextlib.suppress(msgspec.DecodeError):
                    self._heard(msgspec.json.decode(raw, type=dict[str, Any]))
