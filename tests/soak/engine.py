"""An engine for every kind of task. What is asked decides how long it takes and how much it says."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from tests.chaos.engine import SlowEngine

SLOW = "slow"
"""A prompt that begins so gets its tokens slowly."""
SLOW_TOKEN_S, TOKEN_S = 0.05, 0.002
LARGE_TOKENS = 400
"""So many and more come as long ones, which make an output that travels as a blob."""
LARGE_TOKEN = " word" * 80


class MixedEngine(SlowEngine):
    """Chat, completion and embedding."""

    def _routes(self) -> list[web.RouteDef]:
        return [
            *super()._routes(),
            web.post("/v1/completions", self._chat),
            web.post("/v1/embeddings", self._embed),
        ]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self._calls.append(request)
        try:
            return await self._stream(request, await request.json())
        except ConnectionError:
            raise asyncio.CancelledError from None  # nobody listens any more
        finally:
            self._calls.remove(request)

    async def _stream(self, request: web.Request, asked: dict) -> web.StreamResponse:
        many = asked["max_tokens"]
        prompt = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
        token = LARGE_TOKEN if many >= LARGE_TOKENS else " word"
        pause_s = SLOW_TOKEN_S if prompt.startswith(SLOW) else TOKEN_S
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(many):
            if number:
                await asyncio.sleep(pause_s)  # the work itself
            said = {"delta": {"content": token}} if "messages" in asked else {"text": token}
            await self._event(response, {"choices": [{"index": 0, **said}]})
        empty = {"delta": {}} if "messages" in asked else {"text": ""}
        await self._event(response, {"choices": [{"index": 0, "finish_reason": "length", **empty}]})
        usage = {"prompt_tokens": 1 + len(prompt) // 4, "completion_tokens": many}
        await self._event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _event(self, response: web.StreamResponse, payload: dict) -> None:
        await response.write(b"data: " + json.dumps(payload).encode() + b"\n\n")

    async def _embed(self, request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        rows = [{"index": index, "embedding": [len(text) / 7, 0.5, -1.0] * 64} for index, text in enumerate(texts)]
        return web.json_response({"data": rows, "usage": {"prompt_tokens": sum(map(len, texts))}})
