"""HTTP for one function. Of aiohttp's server this takes what speaks the protocol; applications, their routers and what
serves files stay out of the memory of a daemon that has a handful of paths (1.3 MB)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_exceptions import HTTPMethodNotAllowed, HTTPNotFound
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response
from aiohttp.web_server import Server

MAX_CONNECTIONS = 32
"""At once; more are closed unheard. Any program of this machine may connect, and each takes a file of the agent's."""
_SHUTDOWN_S = 2.0
_MAX_BODY_BYTES = 4096

Answer = Callable[[BaseRequest], Awaitable[Response]]
Routes = Mapping[str, Mapping[str, Answer]]
"""Path → method → who answers it."""


class HttpServer:
    """Serves one place until closed. A body over 4 KiB is refused."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._protocol: Server | None = None
        self._listening: asyncio.Server | None = None

    async def start_on(self, listener: socket.socket) -> None:
        """Serve on a socket that is bound, which closes with this."""
        await self._start(sock=listener)

    async def start_at(self, host: str, port: int) -> None:
        """Serve at every address of `host`; port 0 takes any. Raises OSError for one that cannot be had."""
        await self._start(host=host, port=port)

    @property
    def addresses(self) -> list[Any]:
        """Where it listens, as `socket.getsockname` tells it."""
        return [one.getsockname() for one in self._listening.sockets] if self._listening else []

    async def close(self) -> None:
        """Take nothing more, and let what is being answered end. Idempotent."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._protocol is not None:
            await asyncio.sleep(0)  # a request that has just come is begun, and so not closed as idle
            self._protocol.pre_shutdown()
            await self._protocol.shutdown(_SHUTDOWN_S)
            self._protocol = None

    async def _start(self, **where: Any) -> None:
        self._protocol = Server(self._answer, request_factory=self._request, access_log=None)
        self._listening = await asyncio.get_running_loop().create_server(self._admit, **where)

    def _admit(self) -> asyncio.Protocol:
        server = self._protocol
        return server() if server is not None and len(server.connections) < MAX_CONNECTIONS else _Full()

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> BaseRequest:
        loop = asyncio.get_running_loop()
        return BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY_BYTES)


class _Full(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


async def routed(routes: Routes, request: BaseRequest) -> Response:
    """The answer of who has the request's path and method. Raises HTTPNotFound and HTTPMethodNotAllowed, which the
    server answers by themselves."""
    methods = routes.get(request.path)
    if methods is None:
        raise HTTPNotFound
    answer = methods.get("GET" if request.method == "HEAD" else request.method)
    if answer is None:
        raise HTTPMethodNotAllowed(request.method, methods)
    return await answer(request)
