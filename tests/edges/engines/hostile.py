"""An engine that speaks real HTTP on a unix socket and answers whatever a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chunk(text: str, *, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "delta": {"content": text}, "finish_reason": finish, **more}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


async def event_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


def says(*parts: bytes) -> Reply:
    """Streams these parts and ends."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        for part in parts:
            await response.write(part)
        return response

    return reply


def says_then_hangs(*parts: bytes, comments: bool = False) -> Reply:
    """Streams these parts, then nothing, or only comments, until the client goes."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        for part in parts:
            await response.write(part)
        while True:
            await asyncio.sleep(0.02)
            if comments:
                await response.write(b": ping\n\n")

    return reply


def says_for_ever(part: bytes) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        while True:
            await response.write(part)

    return reply


def breaks_off_after(*parts: bytes) -> Reply:
    """Streams these parts, then cuts the connection without ending the answer."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        for part in parts:
            await response.write(part)
        assert request.transport is not None
        request.transport.close()
        return response

    return reply


def answers(status: int, body: object, content_type: str = "application/json") -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(status=status, body=raw, content_type=content_type)

    return reply


class Engine:
    """Routes may be replaced while it runs; `seen` holds path and JSON body of every POST."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.routes: dict[str, Reply] = {}
        self.seen: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = asyncio.Event()
        """Set when a client went away before its answer was complete."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        if request.method == "POST":
            self.seen.append((request.path, await request.json()))
        reply = self.routes.get(request.path)
        if reply is None:
            return web.json_response({"error": "no such path"}, status=404)
        try:
            return await reply(request)
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise


@asynccontextmanager
async def running(socket: Path) -> AsyncIterator[Engine]:
    engine = Engine(socket)
    app = web.Application(client_max_size=8 << 20)
    app.router.add_route("*", "/{path:.*}", engine.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield engine
    finally:
        await runner.cleanup()
