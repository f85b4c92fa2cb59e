"""The node's side over one WebSocket: messages are taken up in order, answered as they are done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from agent.core.wire import (
    MAX_MESSAGE_BYTES,
    SUBPROTOCOL,
    Chunk,
    DownFrame,
    DownMessage,
    Hello,
    Push,
    Refusal,
    RefusalCode,
    UpFrame,
    encode,
)
from agent.devnet.core.rules import Refused, bad_message
from agent.devnet.reception import Reception, read_frame
from agent.devnet.sessions import Session

logger = logging.getLogger(__name__)

HELLO_S = 60.0
"""As long as a nonce is good for."""
PING_S = 20.0
"""Finds a dead peer in 30 s, before its leases expire; within what proxies keep idle connections for."""
MAX_IN_FLIGHT = 64
"""Messages of one node that are worked on at once; the next is not read before one is answered."""
MAX_FAULTS = 16
"""Unreadable messages that one connection may send: a peer that speaks something else is let go."""


class WebSocketRoute:
    """`GET /v1/link`."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._open: set[web.WebSocketResponse] = set()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/link", self._link)]

    async def close(self) -> None:
        """Send every node away; it comes back to whoever serves next."""
        for socket in tuple(self._open):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the coordinator stops")

    async def _link(self, request: web.Request) -> web.StreamResponse:
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if SUBPROTOCOL not in offered:
            raise bad_message(f"expected a WebSocket with subprotocol {SUBPROTOCOL}")
        # aiohttp refuses a message that is as large as its limit.
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), max_msg_size=MAX_MESSAGE_BYTES + 1, compress=False, heartbeat=PING_S
        )
        try:
            await socket.prepare(request)
        except ConnectionError:  # gone before it was answered
            return socket
        self._open.add(socket)
        try:
            if session := await self._greet(socket):
                await _Conversation(self._reception, socket, session).run()
        except ConnectionError:
            logger.info("coordinator.stream_broke")
        finally:
            self._open.discard(socket)
            await socket.close()
        return socket

    async def _greet(self, socket: web.WebSocketResponse) -> Session | None:
        """Nonce, hello, welcome; a refusal ends the connection."""
        nonce = self._reception.nonce()
        await _send(socket, nonce)
        try:
            async with asyncio.timeout(HELLO_S):
                message = await socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                return None
            frame = read_frame(_text_of(message))
            _check_nonce(frame, nonce.nonce)
            welcome, session = await self._reception.hello(frame)
        except TimeoutError:
            return None
        except Refused as error:
            await _send(socket, error.told(), re=0)
            return None
        await _send(socket, welcome, re=0)
        return session


class _Conversation:
    """One greeted connection."""

    def __init__(self, reception: Reception, socket: web.WebSocketResponse, session: Session) -> None:
        self._reception = reception
        self._socket = socket
        self._session = session
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults = 0

    async def run(self) -> None:
        """Until either side closes."""
        node_id = self._session.node_id
        self._reception.desk.connect(node_id, self._push)
        try:
            async for message in self._socket:
                await self._room.acquire()
                self._spawn(self._take(self._read(message)))
                if self._faults >= MAX_FAULTS:
                    await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many unreadable messages")
        finally:
            self._reception.desk.disconnect(node_id, self._push)
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        # Tasks start in the order of their creation, and each decides before it first waits: messages keep their order.
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read(self, message: WSMessage) -> UpFrame | Refusal:
        try:
            return read_frame(_text_of(message))
        except Refused as error:
            self._faults += 1
            return error.told()

    async def _take(self, read: UpFrame | Refusal) -> None:
        try:
            with suppress(ConnectionError):  # nobody is there to answer; what was decided stands
                await self._answer(read)
        finally:
            self._room.release()

    async def _answer(self, read: UpFrame | Refusal) -> None:
        if isinstance(read, Refusal):
            await _send(self._socket, read)
            return
        reply = await self._reply(read)
        if not isinstance(read.msg, Chunk) or isinstance(reply, Refusal):
            await _send(self._socket, reply, re=read.seq)

    async def _reply(self, frame: UpFrame) -> DownMessage:
        try:
            return await self._reception.answer(self._session, frame)
        except Refused as error:
            return error.told()
        except Exception:  # a bug in one message must neither end the connection nor leak
            logger.exception("coordinator.message_failed")
            return Refusal(code=RefusalCode.INTERNAL, message="a fault of the coordinator; its log has more")

    def _push(self, push: Push) -> None:
        self._spawn(self._push_now(push))

    async def _push_now(self, push: Push) -> None:
        with suppress(ConnectionError):  # the next beat tells it again
            await _send(self._socket, push)


def _check_nonce(frame: UpFrame, nonce: str) -> None:
    if isinstance(frame.msg, Hello) and frame.msg.nonce != nonce:
        raise Refused(RefusalCode.REPLAYED, "this nonce was not given to this connection")


def _text_of(message: WSMessage) -> str | bytes:
    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
        raise bad_message("expected a text message")
    text: str | bytes = message.data
    return text


async def _send(socket: web.WebSocketResponse, message: DownMessage, re: int | None = None) -> None:
    await socket.send_str(encode(DownFrame(msg=message, re=re)).decode())
