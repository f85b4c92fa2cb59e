"""HTTP to an engine: bounded replies, deadlines, and every fault classified once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp

from agent.core import engine_replies
from agent.core.engine_stream import garbage
from agent.core.errors import EngineError
from agent.core.model import Reason
from agent.core.text import cause, line, plain

MAX_REPLY_BYTES = 4 << 20
"""Bound on short replies. A prompt of 128 Ki tokens as JSON numbers is about 1 MiB."""


class EngineHttp:
    """Talks to one engine at `base_url`. `connector` is called once, inside the running loop."""

    def __init__(
        self,
        base_url: str,
        connector: Callable[[], aiohttp.BaseConnector],
        *,
        api_key: str = "",
        connect_s: float = 10.0,
        reply_s: float = 30.0,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._reply_s = reply_s
        # Whoever asks bounds how many connections there are. No proxies, no cookies, no redirects.
        self._session = aiohttp.ClientSession(
            connector=connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Drops every connection; the engine stops what it does for us."""
        await self._session.close()

    async def exchange(
        self, path: str, body: bytes | None, deadline_s: float | None = None, limit: int = MAX_REPLY_BYTES
    ) -> bytes:
        """POST `body`, or GET; the whole reply. Raises EngineError."""
        async with self.response("GET" if body is None else "POST", path, body, deadline_s) as response:
            reply = await _read_up_to(response, limit + 1, deadline_s or self._reply_s)
        if len(reply) > limit:
            raise garbage(f"the reply to {path} is longer than {limit} bytes")
        return reply

    @contextlib.asynccontextmanager
    async def response(
        self, method: str, path: str, body: bytes | None, deadline_s: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A 200 response; anything else raises EngineError. Leaving it unread closes the connection."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        response: aiohttp.ClientResponse | None = None
        with classified():
            async with asyncio.timeout(deadline_s or self._reply_s):
                response = await self._session.request(
                    method, self._base + path, data=body, headers=headers, allow_redirects=False
                )
                if response.status != 200:
                    reply = await _read_up_to(response, 64 << 10, self._reply_s)
                    response.close()
                    raise _refusal(response.status, path, engine_replies.error_words(reply))
        try:
            yield response
        finally:
            response.close()


async def _read_up_to(response: aiohttp.ClientResponse, limit: int, deadline_s: float) -> bytes:
    """At most about `limit` bytes of the body. Raises EngineError."""
    reply = bytearray()
    with classified():
        async with asyncio.timeout(deadline_s):
            while len(reply) < limit and (received := await response.content.readany()):
                reply += received
    return bytes(reply)


@contextlib.contextmanager
def classified() -> Iterator[None]:
    """Turns what HTTP and sockets raise into EngineError, once."""
    try:
        yield
    except TimeoutError as fault:
        raise EngineError(Reason.ENGINE_UNAVAILABLE, "the engine did not answer in time") from fault
    except aiohttp.ClientPayloadError as fault:
        raise EngineError(Reason.ENGINE_UNAVAILABLE, "the engine broke off in the middle of its answer") from fault
    except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as fault:
        raise garbage(f"not HTTP as we know it ({line(str(fault), 120)})") from fault
    except (aiohttp.ClientError, OSError) as fault:
        raise EngineError(
            Reason.ENGINE_UNAVAILABLE, f"no connection to the engine: {plain(cause(fault), 200)}"
        ) from fault


def _refusal(status: int, path: str, words: str) -> EngineError:
    """An error status: the request's fault, or the engine's."""
    message = f"the engine answered {status} to {path}: {words or 'no reason given'}"
    if status in (401, 403):
        return EngineError(Reason.ENGINE_REFUSED, message, remedy="Check api_key_file of the pool")
    if 400 <= status < 500 and status not in (408, 429):
        return EngineError(Reason.ENGINE_REFUSED, message)
    return EngineError(Reason.ENGINE_UNAVAILABLE, message)
