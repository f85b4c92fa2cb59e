"""A link in memory: the real handshake and the real bytes, without a socket."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import msgspec

from agent.core import wire
from agent.core.errors import LinkError
from agent.edges.link.describe import described
from agent.edges.link.faults import broken, closed, refused, unreachable
from agent.edges.link.limits import LinkLimits
from agent.edges.link.mailbox import Mailbox
from agent.edges.link.session import Gate, Session, checked, greet, packed
from agent.edges.link.tls import Endpoint
from agent.ports import Clock, Greeter
from tests.fakes.mind import HangUp, Mind, Reply, Silence, as_raw

ENDPOINT = Endpoint("http://localhost:1")


class MemoryLink:
    """Implements `ports.Link` on a Mind in the same loop."""

    def __init__(self, mind: Mind, greeter: Greeter, clock: Clock, limits: LinkLimits | None = None) -> None:
        self._mind = mind
        self._greeter = greeter
        self._clock = clock
        self._limits = limits or LinkLimits()
        self._gate: Gate[Session] = Gate(self._greeted, lambda session: session.fresh(clock.monotonic()))
        self._mailbox = Mailbox()
        self._cut: asyncio.Future[LinkError] = asyncio.get_running_loop().create_future()

    async def call(self, message: wire.UpMessage) -> wire.DownMessage:
        return await self._gate.run(lambda session: self._ask(session, message))

    async def post(self, message: wire.Chunk) -> None:
        if (session := self._gate.current) is not None:
            with suppress(LinkError):
                await self._ask(session, message)

    async def put_blob(self, sha256: str, body: bytes) -> None:
        async def put(session: Session) -> None:
            if not self._mind.knows(session.token):
                raise refused(wire.Refusal(code=wire.RefusalCode.SESSION_EXPIRED, message="say hello again"))
            assert hashlib.sha256(body).hexdigest() == sha256
            self._mind.blobs[sha256] = body

        await self._gate.run(put)

    def pushes(self) -> AsyncIterator[wire.Push]:
        return self._mailbox.read()

    def push(self, message: wire.Push) -> None:
        """As the coordinator: send unasked."""
        self._mailbox.put(message)

    def describe(self) -> Mapping[str, str]:
        return described("memory", ENDPOINT, self._gate, self._gate.current)

    def hang_up(self, why: LinkError | None = None) -> None:
        """Break what is under way; the next call greets again."""
        self._cut.set_result(why or unreachable("the line was cut"))
        self._cut = asyncio.get_running_loop().create_future()
        if (session := self._gate.current) is not None:
            self._gate.discard(session)

    async def close(self) -> None:
        await self._gate.close()
        self.hang_up(closed())
        self._mailbox.close()

    async def _greeted(self) -> Session:
        async def exchange(frame: wire.UpFrame) -> wire.DownFrame:
            return await self._answer(*await self._mind.hello(packed(frame)))

        opening = wire.decode_down(self._mind.nonce())
        return await greet(opening, exchange, self._greeter, self._clock, ENDPOINT)

    async def _ask(self, session: Session, message: wire.UpMessage) -> wire.DownMessage:
        seq = session.next_seq()
        raw = packed(wire.UpFrame(seq=seq, msg=message))
        cut = self._cut
        work = asyncio.ensure_future(self._turn(raw, session.token))
        try:
            limit_s = self._limits.reply_limit_s(message)
            await asyncio.wait([work, cut], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if cut.done():
                raise cut.result().again()
            if not work.done():
                raise unreachable(f"no answer in {limit_s} s")
            return checked(work.result(), seq, message, ENDPOINT)
        finally:
            work.cancel()

    async def _turn(self, raw: bytes, token: str) -> wire.DownFrame:
        return await self._answer(*await self._mind.take(raw, token))

    async def _answer(self, reply: Reply, re: int | None) -> wire.DownFrame:
        if reply is None or isinstance(reply, Silence):
            await asyncio.Event().wait()
        if isinstance(reply, HangUp):
            self.hang_up()
            await asyncio.Event().wait()
        assert not isinstance(reply, Silence | HangUp)
        assert reply is not None
        try:
            return wire.decode_down(as_raw(reply, re).body)
        except msgspec.DecodeError as error:
            raise broken(ENDPOINT, str(error)) from error
