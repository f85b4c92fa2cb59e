"""A llama-server of one's own for a while: started in the sandbox, asked, and ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from agent.core.errors import EngineError
from agent.core.model import Reason
from agent.edges.engines import exits
from agent.edges.engines.http import EngineHttp
from agent.edges.engines.launch import LlamaSettings, sandbox_spec
from agent.edges.sandbox.sockets import SandboxConnector
from agent.edges.verifier.llama import LlamaReplayer
from agent.ports import Clock, Sandbox, SandboxHandle

LOAD_S = 600.0
"""Tens of GB from a slow disk."""
_POLL_S = 0.1
_HEALTH_S = 5.0
_STOP_S = 2.0


@contextlib.asynccontextmanager
async def llama_replayer(settings: LlamaSettings, sandbox: Sandbox, clock: Clock) -> AsyncIterator[LlamaReplayer]:
    """A replayer on a fresh llama-server, which is gone when this is left. Raises SandboxError, EngineError.

    `settings.socket_dir` is a directory of its own.
    """
    handle = await sandbox.start(sandbox_spec(settings))
    http = EngineHttp("http://engine", lambda: SandboxConnector(settings.socket, limit=0, force_close=True))
    try:
        await _loaded(handle, http, clock)
        yield LlamaReplayer(http, states=settings.states)
    finally:
        await http.close()
        await handle.stop(_STOP_S)
        handle.close()


async def _loaded(handle: SandboxHandle, http: EngineHttp, clock: Clock) -> None:
    """Wait until the model is loaded. Raises EngineError with the engine's own words when it never is."""
    deadline, end = clock.monotonic() + LOAD_S, asyncio.ensure_future(handle.wait())
    try:
        while not await _healthy(http):
            if end.done():
                raise EngineError(Reason.ENGINE_CRASHED, exits.explain(end.result(), handle.stderr_tail()))
            if clock.monotonic() >= deadline:
                words = exits.last_lines(handle.stderr_tail())
                raise EngineError(Reason.ENGINE_UNAVAILABLE, f"the model was not loaded in {LOAD_S:g} s ({words})")
            await clock.sleep(_POLL_S)
    finally:
        end.cancel()


async def _healthy(http: EngineHttp) -> bool:
    try:
        await http.exchange("/health", None, _HEALTH_S)
    except EngineError:
        return False
    return True
