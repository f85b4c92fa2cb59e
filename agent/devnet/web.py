"""HTTP manners: bodies are measured before they are read, and every failure is a refusal that says why."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from agent.core.refusals import status_of
from agent.core.wire import MAX_MESSAGE_BYTES, DownFrame, DownMessage, Refusal, RefusalCode, encode, read
from agent.devnet.core.rules import Refused, bad_message

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 8190
"""Of a request line and of one header: aiohttp's own bounds, said aloud."""
BODY_S = 30.0
"""For a message; whoever needs longer holds a connection and nothing else."""
_BEARER = re.compile(r"Bearer ([A-Za-z0-9._~+/=-]{1,4096})")
_CODE_OF = {400: RefusalCode.BAD_MESSAGE, 413: RefusalCode.TOO_LARGE, 401: RefusalCode.BAD_TOKEN}

T = TypeVar("T", bound=msgspec.Struct)
Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


def framed(message: DownMessage, re: int | None = None) -> web.Response:
    """One frame as a response."""
    headers = {}
    status = 200
    if isinstance(message, Refusal):
        status = status_of(message.code)
        if message.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(message.retry_after_s)))
    body = encode(DownFrame(msg=message, re=re))
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def json(value: msgspec.Struct | object, status: int = 200) -> web.Response:
    """A value as a response."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


@web.middleware
async def refusing(request: web.Request, handler: Route) -> web.StreamResponse:
    """Turns what is raised into a refusal; a bug is logged with its traceback, which no client ever sees."""
    try:
        return await handler(request)
    except Refused as error:
        return framed(error.told())
    except web.HTTPException as error:
        code = _CODE_OF.get(error.status, RefusalCode.NOT_FOUND)
        return framed(Refusal(code=code, message=f"{request.method} {request.path}: {error.reason}"[:1000]))
    except (ConnectionError, asyncio.CancelledError):
        raise  # the client went away
    except Exception:  # the last line: a bug in one request must neither stop the others nor leak
        logger.exception("coordinator.request_failed %s %s", request.method, request.path)
        return framed(Refusal(code=RefusalCode.INTERNAL, message="a fault of the coordinator; its log has more"))


async def body_of(request: web.Request, limit: int = MAX_MESSAGE_BYTES) -> bytes:
    """The whole body. Raises Refused: TOO_LARGE before more than `limit` is kept, BAD_MESSAGE when it is encoded."""
    plain_body(request)
    if request.content_length is not None and request.content_length > limit:
        raise too_large(request.content_length, limit)
    pieces, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.content.iter_chunked(1 << 16):
                size += len(piece)
                if size > limit:
                    raise too_large(size, limit)
                pieces.append(piece)
    except TimeoutError as error:
        raise bad_message(f"the body did not come within {BODY_S:g} s") from error
    return b"".join(pieces)


def plain_body(request: web.Request) -> None:
    """Refuse a compressed body: its size says nothing of what it becomes. Raises Refused."""
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise bad_message(f"content-encoding {encoding[:50]}: send bodies as they are")


def too_large(size: int, limit: int) -> Refused:
    return Refused(RefusalCode.TOO_LARGE, f"a body of {size} bytes or more; at most {limit}")


async def value_of(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as a value. Raises Refused."""
    try:
        return read(decoder, await body_of(request))
    except msgspec.DecodeError as error:
        raise bad_message(f"{request.path}: {error}") from error


def bearer_of(request: web.Request) -> str:
    """The token of the Authorization header. Raises Refused(BAD_TOKEN)."""
    match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if match is None:
        raise Refused(RefusalCode.BAD_TOKEN, "expected the header Authorization: Bearer <token>")
    return match[1]
