"""The handshake, and the one session that all calls of a link share. The same on every transport."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from agent.core import wire
from agent.core.errors import LinkError, LinkFault
from agent.edges.link.faults import broken, closed, refused, too_large
from agent.edges.link.tls import Endpoint
from agent.ports import Clock, Greeter

_NONCE = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")
"""RFC 6750 §2.1: what may stand after `Bearer`. Anything else could forge a header."""
SESSION_MIN_S = 5
"""A shorter session would be renewed for nearly every call."""
_RENEW_SHARE = 0.9
"""Of a session's life, after which the next call opens a new one rather than be refused."""


class Session:
    """What the coordinator granted to one connection of this node."""

    def __init__(self, welcome: wire.Welcome, opened_at: float, clock_offset_s: float) -> None:
        self.token = welcome.session
        self.clock_offset_s = clock_offset_s
        """Coordinator's wall clock minus ours; half a round trip is its error."""
        self.opened_at = opened_at
        self._renew_at = opened_at + welcome.session_ttl_s * _RENEW_SHARE
        self._seq = 0

    def next_seq(self) -> int:
        """Rises by one; the hello was 0."""
        self._seq += 1
        return self._seq

    def fresh(self, now: float) -> bool:
        """Whether the session has enough life left for another call."""
        return now < self._renew_at


async def greet(
    opening: wire.DownFrame,
    exchange: Callable[[wire.UpFrame], Awaitable[wire.DownFrame]],
    greeter: Greeter,
    clock: Clock,
    endpoint: Endpoint,
) -> Session:
    """Answer the coordinator's nonce with a signed hello. Raises LinkError, REFUSED when it does not want this node."""
    if isinstance(opening.msg, wire.Refusal):
        raise refused(opening.msg)
    if not isinstance(opening.msg, wire.Nonce) or not _NONCE.fullmatch(opening.msg.nonce):
        raise broken(endpoint, "it does not open with a nonce of 32 bytes")
    hello = greeter.hello(opening.msg.nonce)
    asked_at = clock.wall()
    reply = await exchange(wire.UpFrame(seq=0, msg=hello))
    halfway_at = (asked_at + clock.wall()) / 2
    welcome = _checked_welcome(checked(reply, 0, hello, endpoint), endpoint)
    greeter.welcomed(hello, welcome)
    return Session(welcome, clock.monotonic(), welcome.server_time - halfway_at)


def _checked_welcome(reply: wire.DownMessage, endpoint: Endpoint) -> wire.Welcome:
    if not isinstance(reply, wire.Welcome) or not _TOKEN.fullmatch(reply.session):
        raise broken(endpoint, "its welcome has no usable session token")
    if not wire.PROTO_MIN <= reply.proto <= wire.PROTO_MAX:
        raise broken(endpoint, f"it chose protocol version {reply.proto}")
    if reply.session_ttl_s < SESSION_MIN_S:
        raise broken(endpoint, f"its sessions last only {reply.session_ttl_s} s")
    return reply


def checked(frame: wire.DownFrame, seq: int, message: wire.UpMessage, endpoint: Endpoint) -> wire.DownMessage:
    """The reply that `message` asks for. Raises LinkError: REFUSED, or BROKEN when it answers something else."""
    reply = frame.msg
    if isinstance(reply, wire.Refusal) and frame.re in (seq, None):
        raise refused(reply)
    if frame.re != seq:
        raise broken(endpoint, f"it answers message {frame.re}, asked was {seq}")
    expected = wire.REPLY_TO.get(type(message), wire.Ack)
    if not isinstance(reply, expected):
        raise broken(endpoint, f"it answers {wire.tag_of(message)} with {wire.tag_of(reply)}")
    return reply


def packed(frame: wire.UpFrame) -> bytes:
    """The frame's bytes. Raises LinkError(REFUSED, too_large) before the coordinator has to."""
    raw = wire.encode(frame)
    if len(raw) > wire.MAX_MESSAGE_BYTES:
        raise too_large(len(raw), wire.MAX_MESSAGE_BYTES)
    return raw


S = TypeVar("S")
R = TypeVar("R")


class Gate(Generic[S]):
    """Opens a session when somebody needs one, once for all who wait, and again when it has expired."""

    def __init__(self, opening: Callable[[], Coroutine[Any, Any, S]], usable: Callable[[S], bool]) -> None:
        self._open = opening
        self._usable = usable
        self._current: S | None = None
        self._opening: asyncio.Task[S] | None = None
        self._closed = False
        self.last_fault = ""
        """Of this session, or why there is none."""

    @property
    def current(self) -> S | None:
        """The session when there is a usable one; opens nothing."""
        return self._current if self._current is not None and self._usable(self._current) else None

    @property
    def state(self) -> str:
        """`open`, `opening`, `idle` (the next call opens) or `closed`."""
        if self._closed:
            return "closed"
        if self._opening is not None:
            return "opening"
        return "open" if self.current is not None else "idle"

    async def run(self, work: Callable[[S], Awaitable[R]]) -> R:
        """Do `work` in a session; once more in a new one when it turns out to have expired. Raises LinkError."""
        try:
            session = await self.enter()
            try:
                return await work(session)
            except LinkError as error:
                if error.code is not wire.RefusalCode.SESSION_EXPIRED:
                    raise
                self.discard(session)
            return await work(await self.enter())
        except LinkError as error:
            if self._closed and error.fault is LinkFault.UNREACHABLE:
                raise closed() from error  # closing is what broke the connection
            self.last_fault = str(error)
            raise

    async def enter(self) -> S:
        """The current session, or a new one. Raises LinkError, the same to everybody who waited for it."""
        if self._closed:
            raise closed()
        if (current := self.current) is not None:
            return current
        opening = self._opening or self._start()
        await asyncio.wait([opening])  # a waiter that is cancelled leaves the others their session
        if opening.cancelled():
            raise closed()
        return opening.result()

    def discard(self, session: S) -> None:
        """Forget `session`, unless a newer one took its place."""
        if self._current is session:
            self._current = None

    async def close(self) -> S | None:
        """Open nothing any more; returns the session that was open."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        current, self._current = self._current, None
        return current

    def _start(self) -> asyncio.Task[S]:
        self._opening = asyncio.create_task(self._open(), name="link-open")
        self._opening.add_done_callback(self._opened)
        return self._opening

    def _opened(self, task: asyncio.Task[S]) -> None:
        self._opening = None
        if task.cancelled():
            return
        if (fault := task.exception()) is None:
            self._current = task.result()
        self.last_fault = str(fault or "")
