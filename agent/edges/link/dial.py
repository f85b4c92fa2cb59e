"""aiohttp with the defaults that this protocol needs: own deadlines, no redirects, no cookies, bounded bodies."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict

from agent import __version__
from agent.core import wire
from agent.core.refusals import retry_after_s
from agent.edges.link.faults import broken, classified
from agent.edges.link.tls import Endpoint

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
"""aiohttp would end everything after 300 s; each exchange here has its own deadline instead."""
_CONNECTIONS = 64
"""Parallel requests: a pull for each pool, beats, results and blobs stay well below."""
_KEEPALIVE_S = 30.0
"""Longer than three beats, shorter than what proxies keep (60 s and up), so that we hang up first."""


class Answer(NamedTuple):
    """One HTTP response, whole."""

    status: int
    retry_after_s: float | None
    body: bytes


class Dialer:
    """Connections to one coordinator; opened on demand, kept alive, closed together."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        """`tls` None means the system's CAs, checked. Plain text is only ever spoken to loopback (see Endpoint)."""
        self.endpoint = endpoint
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        route: str,
        body: bytes,
        *,
        limit_s: float,
        token: str = "",
        content: str = "application/json",
    ) -> Answer:
        """One exchange within `limit_s`. Raises LinkError; an error status is an answer."""
        headers = {"Content-Type": content}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        with classified(self.endpoint, f"{method} {route[:20]}"):
            async with (
                asyncio.timeout(limit_s),
                self._opened().request(
                    method,
                    self.endpoint.url("v1", *route.split("/")),
                    data=io.BytesIO(body),  # sent in pieces; raw bytes of this size would block the loop
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                raw = await self._body(response)
                return Answer(response.status, retry_after_s(response.headers.get("Retry-After")), raw)

    async def download(
        self, route: str, write: Callable[[bytes], None], *, most: int, limit_s: float, token: str
    ) -> Answer:
        """Give the body of a 200 to `write` as it comes, at most `most` bytes of it; any other is in the answer.

        Raises LinkError, and what `write` raises.
        """
        headers = {"Authorization": f"Bearer {token}"}
        with classified(self.endpoint, f"GET {route[:20]}"):
            async with (
                asyncio.timeout(limit_s),
                self._opened().get(
                    self.endpoint.url("v1", *route.split("/")), headers=headers, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    again = retry_after_s(response.headers.get("Retry-After"))
                    return Answer(response.status, again, await self._body(response))
                left = most
                async for piece in response.content.iter_any():
                    left -= len(piece)
                    if left < 0:
                        response.close()
                        raise broken(self.endpoint, f"it sends more than the {most} bytes that it announced")
                    write(piece)
                return Answer(200, None, b"")

    async def stream(self, close_s: float) -> aiohttp.ClientWebSocketResponse:
        """An upgraded connection; the caller bounds the wait. Raises LinkError, BROKEN without our subprotocol."""
        with classified(self.endpoint, "connect"):
            connected = await self._opened().ws_connect(
                self.endpoint.stream_url(),
                protocols=(wire.SUBPROTOCOL,),
                timeout=aiohttp.ClientWSTimeout(ws_receive=None, ws_close=close_s),
                autoping=False,  # pongs must reach our own watch
                max_msg_size=wire.MAX_MESSAGE_BYTES + 1,  # aiohttp refuses what is as large as its limit
                compress=0,
            )
        if connected.protocol != wire.SUBPROTOCOL:
            await connected.close()
            raise broken(self.endpoint, f"its WebSocket lacks the subprotocol {wire.SUBPROTOCOL}")
        return connected

    async def close(self) -> None:
        """Break every connection; whoever waits on one fails at once."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for piece in response.content.iter_any():
            raw += piece
            if len(raw) > wire.MAX_MESSAGE_BYTES:
                response.close()
                raise broken(self.endpoint, f"its answer is larger than {wire.MAX_MESSAGE_BYTES} bytes")
        return bytes(raw)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                timeout=_NO_TIMEOUT,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # nothing compressed is asked for, so no bomb is unpacked
                headers=CIMultiDict({"User-Agent": f"gpu-agent/{__version__}", "Accept-Encoding": "identity"}),
            )
        return self._session

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(
            ssl=self._tls or True,
            limit=_CONNECTIONS,
            keepalive_timeout=_KEEPALIVE_S,
            resolver=None if self.endpoint.secure else _ThisMachine(),
        )


class _ThisMachine(AbstractResolver):
    """`localhost` without asking a name server, which might say otherwise (RFC 6761 §6.3)."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        known = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in known.items()
            if family in (kind, socket.AF_UNSPEC)
        ]

    async def close(self) -> None:
        """Nothing is held."""
