"""An engine that a test holds in its hand: speaks the OpenAI API over TCP, a token at a time, when told to."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

MODEL = "held"


class HeldEngine:
    """Streams `tokens` for each task, but waits before the second one while `hold` is set."""

    def __init__(self) -> None:
        self.tokens = ["one", " two", " three"]
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Semaphore(0)
        self.left = asyncio.Semaphore(0)
        """Released for every stream that counts as `broken`."""
        self.running = 0
        self.finished = 0
        self.broken = 0
        """Streams that the agent closed before their end."""
        self.garbage = b""
        """Sent in place of an answer, when set."""
        self.url = ""
        self._port = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> HeldEngine:
        await self.start()
        return self

    async def start(self) -> None:
        """Listen; the second time on the same port."""
        app = web.Application()
        app.add_routes(self._routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def __aexit__(self, *_exc: object) -> None:
        self.open.set()
        await self.stop()

    async def stop(self) -> None:
        """Die: break every stream and listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self._health),
            web.get("/v1/models", self._models),
            web.post("/v1/chat/completions", self._chat),
        ]

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        canary = asked["max_tokens"] == 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.garbage:
            await response.write(self.garbage)
            return response
        self.running += 1
        done = False
        try:
            for number, token in enumerate(self.tokens[:1] if canary else self.tokens):
                if number == 1:
                    self.asked.release()
                    await self.open.wait()
                await self._send(response, {"choices": [{"index": 0, "delta": {"content": token}}]})
            finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length" if canary else "stop"}]}
            await self._send(response, finish)
            count = 1 if canary else len(self.tokens)
            await self._send(response, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": count}})
            await response.write(b"data: [DONE]\n\n")
            done = True
            self.finished += not canary
        finally:
            self.running -= 1
            self.broken += not done
            if not done:
                self.left.release()
        return response

    async def _send(self, response: web.StreamResponse, payload: dict[str, object]) -> None:
        await response.write(b"data: " + json.dumps(payload).encode() + b"\n\n")
