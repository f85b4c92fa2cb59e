"""A small coordinator on real sockets: WebSocket and long poll, on loopback, with or without TLS."""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import WSMsgType, web

from agent.core import wire
from tests.fakes.mind import HangUp, Mind, Raw, Reply, Silence, as_raw

ROUTES = ("beat", "pull", "start", "decline", "chunk", "result", "opening", "bye")


class FakeCoordinator:
    """Serves a Mind. `async with FakeCoordinator() as coordinator:` listens on a free port."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.mind = Mind()
        self.stream_status = 101
        """Anything else refuses the upgrade, as a proxy would."""
        self.subprotocols: tuple[str, ...] = (wire.SUBPROTOCOL,)
        self.deaf_to_pings = False
        self.pings = 0
        self.requests: list[tuple[str, str]] = []
        """Method and path of every request, in order."""
        self._tls = tls
        self._host = host
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._streams: dict[web.WebSocketResponse, asyncio.Transport] = {}

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def streams(self) -> int:
        """How many WebSockets are open."""
        return len(self._streams)

    async def __aenter__(self) -> FakeCoordinator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; the second time on the same port."""
        app = web.Application(client_max_size=wire.MAX_BLOB_BYTES, middlewares=[self._note])
        app.router.add_get("/v1/link", self._link)
        app.router.add_post("/v1/nonce", self._nonce)
        app.router.add_post("/v1/hello", self._hello)
        app.router.add_put("/v1/blobs/{sha256}", self._blob)
        for route in ROUTES:
            app.router.add_post(f"/v1/{route}", self._call)
        # Handlers that never answer must not hold up the end of a test.
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Break every connection and stop listening."""
        self.hang_up()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def hang_up(self) -> None:
        """Break every stream without a goodbye."""
        for transport in list(self._streams.values()):
            transport.abort()

    async def say_goodbye(self) -> None:
        """Close every stream in an orderly way."""
        for stream in list(self._streams):
            await stream.close(code=1012, message=b"restarting")

    async def push(self, message: wire.DownMessage | Raw) -> None:
        """Send unasked to every stream."""
        for stream in list(self._streams):
            await stream.send_str(as_raw(message, None).body.decode())

    @web.middleware
    async def _note(self, request: web.Request, handler: web.Handler) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        return await handler(request)

    async def _link(self, request: web.Request) -> web.StreamResponse:
        if self.stream_status != 101:
            return web.Response(status=self.stream_status)
        stream = web.WebSocketResponse(
            protocols=self.subprotocols, autoping=False, compress=False, max_msg_size=wire.MAX_MESSAGE_BYTES + 1
        )
        await stream.prepare(request)
        assert request.transport is not None
        self._streams[stream] = request.transport
        try:
            await self._converse(stream)
        finally:
            del self._streams[stream]
        return stream

    async def _converse(self, stream: web.WebSocketResponse) -> None:
        await stream.send_str(self.mind.nonce().decode())
        token = ""
        async with asyncio.TaskGroup() as tasks:
            async for message in stream:
                if message.type is WSMsgType.PING:
                    self.pings += 1
                    if not self.deaf_to_pings:
                        await stream.pong(message.data)
                elif message.type is WSMsgType.TEXT and not token:
                    reply, re = await self.mind.hello(message.data)
                    token = reply.session if isinstance(reply, wire.Welcome) else ""
                    await self._answer(stream, reply, re)
                elif message.type is WSMsgType.TEXT:
                    tasks.create_task(self._turn(stream, message.data, token))

    async def _turn(self, stream: web.WebSocketResponse, raw: str, token: str) -> None:
        reply, re = await self.mind.take(raw, token)
        if isinstance(reply, wire.Ack) and '"type":"chunk"' in raw:
            return  # a chunk gets no reply on a stream
        await self._answer(stream, reply, re)

    async def _answer(self, stream: web.WebSocketResponse, reply: Reply, re: int | None) -> None:
        if isinstance(reply, HangUp):
            self._streams[stream].abort()
        elif reply is not None and not isinstance(reply, Silence) and not stream.closed:
            body = as_raw(reply, re).body
            try:
                await stream.send_str(body.decode())
            except UnicodeDecodeError:
                await stream.send_bytes(body)

    async def _nonce(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self.mind.nonce())

    async def _hello(self, request: web.Request) -> web.StreamResponse:
        return await self._respond(request, *await self.mind.hello(await request.read()))

    async def _call(self, request: web.Request) -> web.StreamResponse:
        return await self._respond(request, *await self.mind.take(await request.read(), _bearer(request)))

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        if not self.mind.knows(_bearer(request)):
            refusal = wire.Refusal(code=wire.RefusalCode.SESSION_EXPIRED, message="say hello again")
            return await self._respond(request, refusal, None)
        self.mind.blobs[request.match_info["sha256"]] = await request.read()
        return web.Response(status=201)

    async def _respond(self, request: web.Request, reply: Reply, re: int | None) -> web.StreamResponse:
        if reply is None or isinstance(reply, Silence):
            await asyncio.Event().wait()
        if isinstance(reply, HangUp):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        assert not isinstance(reply, Silence)
        assert reply is not None
        raw = as_raw(reply, re)
        return web.Response(body=raw.body, status=raw.status, headers=raw.headers)


def _bearer(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")
