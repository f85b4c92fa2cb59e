"""Passes calls between the stream and the poll, as `core.baton` decides."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from agent.core import wire
from agent.core.baton import FIRST_PROBE_S, Baton, Transport, poll_recovered, stream_failed, stream_worked
from agent.core.errors import LinkError, LinkFault
from agent.edges.link.http import HttpLink
from agent.edges.link.limits import LinkLimits
from agent.edges.link.tls import Endpoint, client_context
from agent.edges.link.ws import WebSocketLink
from agent.ports import Clock, Greeter, Link

R = TypeVar("R")
_OF_THE_LINE = (LinkFault.UNREACHABLE, LinkFault.BROKEN)
"""Faults that another transport may not have. A refusal or a bad certificate would be the same there."""


class Stream(Link, Protocol):
    """A link that can be tried without a message, and dropped."""

    async def open(self) -> None: ...
    async def reset(self) -> None: ...


class BatonLink:
    """Implements `ports.Link`: prefers the stream, polls while it is unhealthy, returns when it is well."""

    def __init__(self, stream: Stream, poll: Link, clock: Clock, rng: random.Random) -> None:
        self._stream = stream
        self._poll = poll
        self._clock = clock
        self._rng = rng
        self._baton = Baton()
        self._poll_failed = False
        self._probe: asyncio.Task[None] | None = None

    async def call(self, message: wire.UpMessage) -> wire.DownMessage:
        """Send and await the reply. Raises LinkError; a message that may have been sent is never sent twice."""
        return await self._carry(lambda link: link.call(message))

    async def post(self, message: wire.Chunk) -> None:
        """Send without a reply, by whoever has the baton."""
        link = self._stream if self._baton.transport is Transport.STREAM else self._poll
        await link.post(message)

    async def put_blob(self, sha256: str, body: bytes) -> None:
        """Upload with the session of whoever has the baton. Raises LinkError."""
        await self._carry(lambda link: link.put_blob(sha256, body))

    async def get_blob(self, sha256: str, size: int, write: Callable[[bytes], None]) -> None:
        """Download a blob that a task of this node names."""
        await self._carry(lambda link: link.get_blob(sha256, size, write))

    def pushes(self) -> AsyncIterator[wire.Push]:
        """The stream's pushes, across reconnects; silent while polling, where beats carry the same."""
        return self._stream.pushes()

    def describe(self) -> Mapping[str, str]:
        """What carries the calls, and why."""
        link = self._stream if self._baton.transport is Transport.STREAM else self._poll
        return {**link.describe(), "why": self._baton.why}

    async def close(self) -> None:
        """Close both; every waiting call raises CLOSED."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        await self._stream.close()
        await self._poll.close()

    async def _carry(self, work: Callable[[Link], Awaitable[R]]) -> R:
        if self._baton.transport is Transport.STREAM and await self._opened():
            return await self._by_stream(work)
        return await self._by_poll(work)

    async def _opened(self) -> bool:
        """Whether the stream is open. Nothing was sent when it is not, so the same call may be polled at once."""
        before = self._baton
        try:
            await self._stream.open()
        except LinkError as error:
            if error.fault not in _OF_THE_LINE:
                raise
            await self._drop(before, error)
            return False
        self._baton = stream_worked(self._baton, self._clock.monotonic())
        return self._baton.transport is Transport.STREAM

    async def _by_stream(self, work: Callable[[Link], Awaitable[R]]) -> R:
        before = self._baton
        try:
            return await work(self._stream)
        except LinkError as error:
            if error.fault in _OF_THE_LINE:
                await self._drop(before, error)
            raise

    async def _by_poll(self, work: Callable[[Link], Awaitable[R]]) -> R:
        try:
            reply = await work(self._poll)
        except LinkError as error:
            self._poll_failed = error.fault in _OF_THE_LINE
            raise
        if self._poll_failed:
            self._poll_failed = False
            self._baton = poll_recovered(self._baton, self._clock.monotonic())
        return reply

    async def _drop(self, before: Baton, error: LinkError) -> None:
        """Note a failure of the stream; of many calls that it broke only the first counts."""
        if self._baton is not before:
            return
        self._baton = stream_failed(before, self._clock.monotonic(), error.message, self._rng.random())
        if self._baton.transport is Transport.POLL and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._return_to_stream(), name="link-probe")
        await self._stream.reset()

    async def _return_to_stream(self) -> None:
        """Try the stream whenever it is due, until it opens. Calls go on by poll meanwhile."""
        while True:
            wait_s = self._baton.probe_at - self._clock.monotonic()
            if wait_s > 0:  # in short steps: the coordinator's return may bring the next try forward
                await self._clock.sleep(min(wait_s, FIRST_PROBE_S))
            elif await self._tried():
                return

    async def _tried(self) -> bool:
        try:
            await self._stream.open()
        except LinkError as error:
            if error.fault is LinkFault.CLOSED:
                return True
            self._baton = stream_failed(self._baton, self._clock.monotonic(), error.message, self._rng.random())
            return False
        self._baton = stream_worked(self._baton, self._clock.monotonic())
        return True


def link_to(
    url: str,
    greeter: Greeter,
    clock: Clock,
    *,
    transport: str = "auto",
    ca_file: Path | None = None,
    rng: random.Random | None = None,
    limits: LinkLimits | None = None,
) -> Link:
    """The link that the configuration asks for: `auto`, `websocket` or `poll`. Raises LinkError(INSECURE)."""
    # The system's CAs are 1.3 MiB: not read for a coordinator on this machine.
    tls, waits = client_context(ca_file) if Endpoint(url).secure else None, limits or LinkLimits()
    if transport == "poll":
        return HttpLink(url, greeter, clock, tls=tls, limits=waits)
    stream = WebSocketLink(url, greeter, clock, tls=tls, limits=waits)
    if transport == "websocket":
        return stream
    poll = HttpLink(url, greeter, clock, tls=tls, limits=waits)
    return BatonLink(stream, poll, clock, rng or random.SystemRandom())
