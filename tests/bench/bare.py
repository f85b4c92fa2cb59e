"""A llama-server as the agent starts it, but without the sandbox: its CPU time is read from outside."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp

from agent.core import engines
from agent.core.errors import EngineError
from agent.core.model import CompletionInput, Sampling, TaskSpec
from agent.edges.engines.http import EngineHttp
from agent.edges.engines.launch import find_llama_server

_PROFILE = engines.PROFILES["llama-server"]


class Engine(NamedTuple):
    http: EngineHttp
    pid: int

    def cpu_s(self) -> float:
        """Of all its threads so far: what clock_getcpuclockid(3) makes of the process id, to the nanosecond."""
        return time.clock_gettime(~self.pid << 3 | 2)


class Generated(NamedTuple):
    """One generation, with what it cost the engine."""

    events: bytes
    tokens: int
    cpu_s: float
    wall_s: float


@contextlib.asynccontextmanager
async def bare_engine(weights: Path, socket: Path) -> AsyncIterator[Engine]:
    """With one slot and one thread. The name of `socket` ends in ".sock"."""
    argv = [find_llama_server("auto"), "-m", weights, "--host", socket, "-c", "1024", "-np", "1", "--cache-ram", "0"]
    process = subprocess.Popen([*map(str, argv), "-t", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    http = EngineHttp("http://engine", lambda: aiohttp.UnixConnector(str(socket), force_close=True))
    try:
        await _healthy(http, process)
        yield Engine(http, process.pid)
    finally:
        await http.close()
        process.kill()
        process.wait()


async def _healthy(http: EngineHttp, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(600.0):  # some gigabytes are read first
        while process.poll() is None:
            with contextlib.suppress(EngineError):  # it does not listen yet, or is loading
                await http.exchange("/health", None, 5.0)
                return
            await asyncio.sleep(0.2)  # a program of its own: nothing tells us when it is ready
    raise RuntimeError(f"the engine ended with status {process.returncode} before it was ready")


async def generate(engine: Engine, prompt: tuple[int, ...], tokens: int, top: int) -> Generated:
    """The same tokens each time, with `top` candidates each; 0 asks for no log-probabilities."""
    task = TaskSpec(
        task_id="bench",
        model_digest="",
        input=CompletionInput(prompt="only its tokens are sent"),
        sampling=Sampling(seed=7),
        max_tokens=tokens,
    )
    request = engines.build_request(_PROFILE, "m", task, top, prompt)
    cpu_s, began = engine.cpu_s(), time.perf_counter()
    events = await engine.http.exchange(request.path, request.body, 600.0, request.max_answer_bytes)
    return Generated(events, tokens, engine.cpu_s() - cpu_s, time.perf_counter() - began)
