"""An engine that takes its time, so that a fault finds something to break, and that can be broken itself."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tests.scenarios.engine import HeldEngine


class SlowEngine(HeldEngine):
    """Five tokens, `token_s` apart."""

    def __init__(self, token_s: float = 0.06) -> None:
        super().__init__()
        self.tokens = ["one", " two", " three", " four", " five"]
        self._token_s = token_s
        self._calls: list[web.Request] = []

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self._calls.append(request)
        try:
            return await super()._chat(request)
        finally:
            self._calls.remove(request)

    async def _send(self, response: web.StreamResponse, payload: dict[str, object]) -> None:
        await asyncio.sleep(self._token_s)  # the work itself
        await super()._send(response, payload)

    def crash(self) -> None:
        """Every stream breaks off."""
        for call in self._calls:
            if call.transport is not None:
                call.transport.abort()
