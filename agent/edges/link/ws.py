"""The link over one WebSocket: least latency, least work, and pushes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from agent.core import wire
from agent.core.errors import LinkError
from agent.edges.link.conversation import Conversation, Frames
from agent.edges.link.describe import described
from agent.edges.link.dial import Dialer
from agent.edges.link.faults import classified, closed, unreachable
from agent.edges.link.http import download, upload
from agent.edges.link.limits import LinkLimits
from agent.edges.link.mailbox import Mailbox
from agent.edges.link.session import Gate, Session, greet, packed
from agent.edges.link.tls import Endpoint
from agent.ports import Clock, Greeter


class WebSocketLink:
    """Implements `ports.Link` over `GET /v1/link`. A broken stream is opened again by the next call."""

    def __init__(
        self, url: str, greeter: Greeter, clock: Clock, *, tls: ssl.SSLContext | None = None, limits: LinkLimits
    ) -> None:
        """Raises LinkError(INSECURE) for plain text beyond loopback; nothing is sent before the first call."""
        self._dialer = Dialer(Endpoint(url), tls)
        self._greeter = greeter
        self._clock = clock
        self._limits = limits
        self._gate: Gate[Conversation] = Gate(self._greeted, lambda conversation: conversation.fault is None)
        self._mailbox = Mailbox()

    async def open(self) -> None:
        """Make sure that a stream is open. Raises LinkError."""
        await self._gate.enter()

    async def call(self, message: wire.UpMessage) -> wire.DownMessage:
        """Send and await the reply. Raises LinkError."""
        return await self._gate.run(lambda conversation: self._ask(conversation, message))

    async def post(self, message: wire.Chunk) -> None:
        """Send without a reply; lost when no stream is open or it takes nothing more."""
        if (conversation := self._gate.current) is not None:
            with suppress(LinkError):  # lossy by contract: the result carries the whole text
                await conversation.tell(message)

    async def put_blob(self, sha256: str, body: bytes) -> None:
        """Upload beside the stream, with its session's token. Raises LinkError."""
        await self._gate.run(
            lambda conversation: upload(self._dialer, self._limits, conversation.session.token, sha256, body)
        )

    async def get_blob(self, sha256: str, size: int, write: Callable[[bytes], None]) -> None:
        """Download beside the stream, with its session's token. Raises LinkError."""
        await self._gate.run(
            lambda conversation: download(self._dialer, self._limits, conversation.session.token, sha256, size, write)
        )

    def pushes(self) -> AsyncIterator[wire.Push]:
        """What the coordinator sends unasked, across reconnects; ends when the link is closed."""
        return self._mailbox.read()

    def describe(self) -> Mapping[str, str]:
        """Transport, state, last fault and clock offset."""
        current = self._gate.current
        return described("websocket", self._dialer.endpoint, self._gate, current.session if current else None)

    async def reset(self) -> None:
        """Drop the stream if there is one; the next call opens another."""
        if (conversation := self._gate.current) is not None:
            self._gate.discard(conversation)
            await conversation.close(unreachable("the stream was given up"))

    async def close(self) -> None:
        """Every waiting call raises CLOSED, and no stream is opened any more."""
        if (conversation := await self._gate.close()) is not None:
            await conversation.close(closed())
        self._mailbox.close()
        await self._dialer.close()

    async def _ask(self, conversation: Conversation, message: wire.UpMessage) -> wire.DownMessage:
        try:
            return await conversation.ask(message)
        except LinkError as error:
            if error.code is wire.RefusalCode.SESSION_EXPIRED:
                await conversation.close(error)  # whoever waits here, too, goes on in the next session
            raise

    async def _greeted(self) -> Conversation:
        with classified(self._dialer.endpoint, "open"):
            async with asyncio.timeout(self._limits.open_s):
                socket = await self._dialer.stream(self._limits.close_s)
                frames = Frames(socket, self._dialer.endpoint)
                try:
                    session = await self._greet(frames)
                except BaseException:  # also when we are cancelled: no socket is left behind
                    await frames.close()
                    raise
        return Conversation(frames, session, self._dialer.endpoint, self._clock, self._limits, pushed=self._mailbox.put)

    async def _greet(self, frames: Frames) -> Session:
        async def exchange(frame: wire.UpFrame) -> wire.DownFrame:
            await frames.send(packed(frame))
            return await frames.receive()

        return await greet(await frames.receive(), exchange, self._greeter, self._clock, self._dialer.endpoint)
