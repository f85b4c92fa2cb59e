"""The wire between nodes and the coordinator: requests and replies that are lost, late, doubled or overtaken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING

from agent.core import wire
from agent.core.errors import LinkError
from agent.edges.link.faults import refused, unreachable
from agent.edges.link.limits import LinkLimits
from agent.edges.link.mailbox import Mailbox
from agent.edges.link.session import Gate, Session, checked, greet, packed
from agent.edges.link.tls import Endpoint
from agent.ports import Greeter
from tests.sim.clock import SimClock
from tests.sim.loop import OWNER, Owner

if TYPE_CHECKING:
    from tests.sim.world import World

ENDPOINT = Endpoint("http://127.0.0.1:1")
LIMITS = LinkLimits()
CONTENT = b"\0"
"""Before the bytes of a blob, where a frame would begin otherwise."""


class Request:
    """One question on its way."""

    def __init__(self, node: int, route: str, raw: bytes, token: str) -> None:
        self.node, self.route, self.raw, self.token = node, route, raw, token
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.served: list[asyncio.Task[None]] = []


class Network:
    """Everything between the processes."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world, self._chance = world, chance
        self._loop = world.loop
        self.cut_up: set[int] = set()
        self.cut_down: set[int] = set()
        self.stragglers: set[int] = set()
        self.slow_up: dict[int, float] = {}
        self.slow_down: dict[int, float] = {}
        self._context = copy_context()
        self._context.run(OWNER.set, Owner(world.loop, "network"))

    def request(self, node: int, route: str, raw: bytes, token: str) -> Request:
        """Send; the reply, if one comes, is in `answer`."""
        request = Request(node, route, raw, token)
        times = 1 + (self._chance.random() < self._world.noise.duplicate)
        for _ in range(times):
            if node in self.cut_up or self._lost():
                self._world.note(f"n{node} {route} lost on its way up")
                self._maybe_reset(request)
            else:
                self._later(self._delay(self.slow_up.get(node, 0.0)) + self._held(request), self._arrive, request)
        return request

    def reply(self, request: Request, raw: bytes) -> None:
        """Send an answer back."""
        if request.node in self.cut_down or self._lost():
            self._world.note(f"n{request.node} {request.route} lost on its way down")
            self._maybe_reset(request)
        else:
            self._later(self._delay(self.slow_down.get(request.node, 0.0)), self._deliver, request, raw)

    def abandon(self, request: Request) -> None:
        """Whoever asked has gone; mostly the other side notices."""
        if not request.answer.done():
            request.answer.cancel()
            if request.node not in self.cut_up and self._chance.random() < 0.7:
                self._later(self._delay(0.0), self._cancel, request)

    def push(self, node: int, push: wire.Push, mailbox: Mailbox) -> None:
        """One way, to the life of a node that has opened this session."""
        if node not in self.cut_down and not self._lost():
            self._later(self._delay(self.slow_down.get(node, 0.0)), mailbox.put, push)

    def _arrive(self, request: Request) -> None:
        authority = self._world.authority
        if authority.alive:
            authority.receive(request)
        else:
            self._maybe_reset(request)

    def _deliver(self, request: Request, raw: bytes) -> None:
        if not request.answer.done():
            request.answer.set_result(raw)

    def _cancel(self, request: Request) -> None:
        for task in request.served:
            task.cancel()

    def _maybe_reset(self, request: Request) -> None:
        """A lost message is noticed at once, or only by its silence."""
        if self._chance.random() < 0.5:
            self._later(self._delay(0.0), self._reset, request)

    def _reset(self, request: Request) -> None:
        if not request.answer.done():
            request.answer.set_exception(unreachable("the connection was reset"))

    def _held(self, request: Request) -> float:
        if request.node not in self.stragglers or request.route not in ("hello", "bye"):
            return 0.0
        self.stragglers.discard(request.node)
        return LIMITS.open_s + self._chance.uniform(0, 10)

    def _lost(self) -> bool:
        return self._chance.random() < self._world.noise.drop

    def _delay(self, slow: float) -> float:
        late = self._chance.random() < self._world.noise.late
        usual = self._chance.expovariate(1 / 0.02)
        return usual + (self._chance.uniform(0, 20) if late else 0.0) + slow * self._chance.random()

    def _later(self, delay: float, work: Callable[..., object], *args: object) -> None:
        self._loop.call_later(delay, work, *args, context=self._context)


class SimLink:
    """Implements ports.Link with the real handshake, gate and session, over the simulated network."""

    def __init__(self, world: World, node: int, greeter: Greeter, clock: SimClock) -> None:
        self._world, self._node, self._greeter, self._clock = world, node, greeter, clock
        self._gate: Gate[Session] = Gate(self._open, lambda session: session.fresh(clock.monotonic()))
        self.mailbox = Mailbox()

    async def call(self, message: wire.UpMessage) -> wire.DownMessage:
        return await self._gate.run(lambda session: self._ask(session, message))

    async def post(self, message: wire.Chunk) -> None:
        if (session := self._gate.current) is None:
            raise unreachable("no session is open")
        self._world.network.request(
            self._node, "chunk", packed(wire.UpFrame(seq=session.next_seq(), msg=message)), session.token
        )

    async def put_blob(self, sha256: str, body: bytes) -> None:
        limit_s = LIMITS.blob_limit_s(len(body))
        await self._gate.run(lambda session: self._post("put", sha256.encode() + body, limit_s, session.token))

    async def get_blob(self, sha256: str, size: int, write: Callable[[bytes], None]) -> None:
        write(await self._gate.run(lambda session: self._fetched(session, sha256, size)))

    def pushes(self) -> AsyncIterator[wire.Push]:
        return self.mailbox.read()

    def describe(self) -> Mapping[str, str]:
        return {}

    async def close(self) -> None:
        return None

    async def _open(self) -> Session:
        async def exchange(frame: wire.UpFrame) -> wire.DownFrame:
            return await self._post("hello", packed(frame), LIMITS.open_s)

        opening = await self._post("nonce", b"", LIMITS.open_s)
        return await greet(opening, exchange, self._greeter, self._clock, ENDPOINT)

    async def _ask(self, session: Session, message: wire.UpMessage) -> wire.DownMessage:
        seq = session.next_seq()
        raw = packed(wire.UpFrame(seq=seq, msg=message))
        frame = await self._post(wire.tag_of(message), raw, LIMITS.reply_limit_s(message), session.token)
        return checked(frame, seq, message, ENDPOINT)

    async def _fetched(self, session: Session, sha256: str, size: int) -> bytes:
        raw = await self._answer("get", sha256.encode(), LIMITS.blob_limit_s(size), session.token)
        if not raw.startswith(CONTENT):
            self._read(raw)
        return raw.removeprefix(CONTENT)

    async def _post(self, route: str, raw: bytes, limit_s: float, token: str = "") -> wire.DownFrame:
        return self._read(await self._answer(route, raw, limit_s, token))

    async def _answer(self, route: str, raw: bytes, limit_s: float, token: str) -> bytes:
        request = self._world.network.request(self._node, route, raw, token)
        try:
            async with asyncio.timeout(limit_s):
                return await request.answer
        except TimeoutError as error:
            raise unreachable(f"no answer in time ({route})") from error
        finally:
            self._world.network.abandon(request)

    def _read(self, raw: bytes) -> wire.DownFrame:
        frame = wire.decode_down(raw)
        if isinstance(frame.msg, wire.Refusal):
            raise refused(frame.msg)
        return frame


__all__ = ["LinkError", "Network", "Request", "SimLink"]
