"""One greeted WebSocket: a single reader, replies matched by `re`, a watch on its liveness, one common end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import msgspec
from aiohttp import ClientWebSocketResponse, WSMsgType

from agent.core import wire
from agent.core.errors import LinkError
from agent.core.text import plain
from agent.edges.link.faults import MAX_DETAIL, broken, classified, refused, unreachable
from agent.edges.link.limits import LinkLimits
from agent.edges.link.session import Session, checked, packed
from agent.edges.link.tls import Endpoint
from agent.ports import Clock

_WAKES_WITH = wire.DownFrame | LinkError


class Frames:
    """Frames in and out of one socket; pings and closing frames are dealt with here."""

    def __init__(self, socket: ClientWebSocketResponse, endpoint: Endpoint) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self.heard = asyncio.Event()
        """Set by anything that the peer sends."""

    async def receive(self) -> wire.DownFrame:
        """The next frame. Raises LinkError when there will be none."""
        while True:
            with classified(self._endpoint, "receive"):
                message = await self._socket.receive()
            self.heard.set()
            if message.type is WSMsgType.TEXT:
                return self._decoded(message.data)
            if message.type is WSMsgType.PING:
                with classified(self._endpoint, "pong"):
                    await self._socket.pong(message.data)
            elif message.type is not WSMsgType.PONG:
                raise self._ending(message)

    async def send(self, raw: bytes) -> None:
        """Written at once and in the order of calls; waits only where the peer reads too slowly."""
        await self._socket.send_frame(raw, WSMsgType.TEXT)

    async def ping(self) -> None:
        await self._socket.ping()

    async def close(self) -> None:
        """Say goodbye; bounded by the socket's own closing time."""
        await self._socket.close()

    def _decoded(self, text: str) -> wire.DownFrame:
        try:
            return wire.decode_down(text)
        except msgspec.DecodeError as error:
            raise broken(self._endpoint, f"its message is malformed ({plain(str(error), MAX_DETAIL)})") from error

    def _ending(self, message: aiohttp.WSMessage) -> LinkError:
        if message.type is WSMsgType.BINARY:
            return broken(self._endpoint, "it sends binary messages")
        if message.type is WSMsgType.ERROR and isinstance(message.data, aiohttp.WebSocketError):
            return broken(self._endpoint, plain(str(message.data), MAX_DETAIL))
        return unreachable(f"{self._endpoint.name} closed the stream")


class Conversation:
    """All calls of one stream. Ends once, with a reason that every waiter gets."""

    def __init__(
        self,
        frames: Frames,
        session: Session,
        endpoint: Endpoint,
        clock: Clock,
        limits: LinkLimits,
        pushed: Callable[[wire.Push], bool],
    ) -> None:
        self.session = session
        self.fault: LinkError | None = None
        """Why it ended; None while it lives."""
        self._frames = frames
        self._endpoint = endpoint
        self._clock = clock
        self._limits = limits
        self._pushed = pushed
        self._waiting: dict[int, asyncio.Future[_WAKES_WITH]] = {}
        self._task = asyncio.create_task(self._live(), name="link-stream")

    async def ask(self, message: wire.UpMessage) -> wire.DownMessage:
        """Send and await the reply. Raises LinkError."""
        seq = self.session.next_seq()
        raw = packed(wire.UpFrame(seq=seq, msg=message))
        self._waiting[seq] = waiter = asyncio.get_running_loop().create_future()
        try:
            frame = await self._answer(waiter, raw, message)
        finally:
            del self._waiting[seq]
        return checked(frame, seq, message, self._endpoint)

    async def tell(self, chunk: wire.Chunk) -> None:
        """Send without a reply. Raises LinkError."""
        raw = packed(wire.UpFrame(seq=self.session.next_seq(), msg=chunk))
        with classified(self._endpoint, "chunk"):
            async with asyncio.timeout(self._limits.close_s):
                await self._send(raw)

    async def close(self, why: LinkError) -> None:
        """End it from our side: every waiter raises `why`."""
        self._end(why)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _answer(self, waiter: asyncio.Future[_WAKES_WITH], raw: bytes, message: wire.UpMessage) -> wire.DownFrame:
        with classified(self._endpoint, wire.tag_of(message)):
            async with asyncio.timeout(self._limits.reply_limit_s(message)):
                await self._send(raw)
                outcome = await waiter
        if isinstance(outcome, LinkError):
            raise outcome.again() from outcome
        return outcome

    async def _send(self, raw: bytes) -> None:
        if self.fault is not None:
            raise self.fault.again() from self.fault
        try:
            with classified(self._endpoint, "send"):
                await self._frames.send(raw)
        except LinkError as error:  # the reader may not know yet that the line is down
            self._end(error)
            self._task.cancel()
            raise

    async def _live(self) -> None:
        """Read and watch until one of the two ends it, or we do."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._read())
                both.create_task(self._watch())
        except* LinkError as faults:
            self._end(_first(faults))
        finally:
            self._end(unreachable("the stream's reader stopped"))  # only a fault of our own leads here first
            await self._frames.close()

    async def _read(self) -> None:
        while True:
            frame = await self._frames.receive()
            if frame.re is not None:
                waiter = self._waiting.get(frame.re)
                if waiter is not None and not waiter.done():  # otherwise its caller gave up meanwhile
                    waiter.set_result(frame)
            elif isinstance(frame.msg, wire.Push):
                if not self._pushed(frame.msg):
                    raise broken(self._endpoint, "it floods this node with pushes")
            elif isinstance(frame.msg, wire.Refusal):
                raise refused(frame.msg)
            else:
                raise broken(self._endpoint, f"it pushes {wire.tag_of(frame.msg)}")

    async def _watch(self) -> None:
        """Ask for a sign of life after a silence; a dead peer is noticed though TCP would wait for minutes."""
        while True:
            self._frames.heard.clear()
            await self._clock.sleep(self._limits.ping_s)
            if not self._frames.heard.is_set():
                with classified(self._endpoint, "no sign of life"):
                    async with asyncio.timeout(self._limits.pong_s):
                        await self._frames.ping()
                        await self._frames.heard.wait()

    def _end(self, fault: LinkError) -> None:
        if self.fault is None:
            self.fault = fault
            for waiter in self._waiting.values():
                if not waiter.done():
                    waiter.set_result(fault)


def _first(faults: ExceptionGroup[LinkError]) -> LinkError:
    """Reader and watch may fail in the same instant; either tells the story."""
    found = faults.exceptions[0]
    return found if isinstance(found, LinkError) else _first(found)
