"""The coordinator's process: the real core, desk, reception and sessions, over a disk that survives it."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING, Any

from agent.core import wire
from agent.core.errors import StorageError
from agent.core.model import Value
from agent.devnet.case_store import exhibits_of_judged
from agent.devnet.core import leasing
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision
from agent.devnet.core.proofs import sweeping as proving
from agent.devnet.core.restoring import restore
from agent.devnet.core.rules import Instant, Refused, Rules
from agent.devnet.desk import Desk
from agent.devnet.examining import Examiner
from agent.devnet.reception import Reception, read_frame
from agent.devnet.sessions import Session, Sessions
from agent.devnet.tidying import Tidier
from tests.sim.clock import SimClock
from tests.sim.files import SimBlobs, SimExhibits
from tests.sim.keys import key_of, made_up, sign, verify
from tests.sim.loop import Owner
from tests.sim.network import CONTENT, Request
from tests.sim.store import SimStore, StoreDisk

if TYPE_CHECKING:
    from tests.sim.world import World

KEY = key_of("coordinator")
SWEEP_S = 0.25


class WatchedDesk(Desk):
    """Shows every decision to the truth before it is carried out."""

    truth: Any = None

    def begin(self, decision: Decision[Any]) -> Any:
        self.truth.decided(decision)
        return super().begin(decision)


class Authority:
    """One coordinator, through all its lives."""

    def __init__(self, world: World, disk: StoreDisk, rules: Rules, chance: random.Random) -> None:
        self._world, self.disk, self._rules, self._chance = world, disk, rules, chance
        self._lives = 0
        self.owner: Owner
        self.alive = False
        self._answers: dict[int, list[wire.Answer]] = {}

    def start(self) -> None:
        """A new process that has nothing but the disk, with a monotonic clock of its own."""
        self._lives += 1
        self.alive = True
        world = self._world
        self.owner = Owner(world.loop, f"c.{self._lives}")
        self.clock = SimClock(world.loop, offset=float(self._chance.randrange(10, 10_000)))
        self.store = SimStore(self.disk, self._chance, self._broken)
        self.book = Book(self._rules, KEY, partial(sign, KEY), verify)
        restore(self.book, Instant(self.clock.monotonic(), int(self.clock.wall())), self.disk.remembered())
        self.blobs, exhibits = SimBlobs(self.disk, self._chance), SimExhibits(self.disk, self._chance)
        judged = exhibits_of_judged(self.disk.database)
        exhibits.clear(lambda sha256: sha256 in judged or self.book.docket.names(sha256))
        self.desk = WatchedDesk(self.book, self.store, self.blobs, exhibits, self.clock)  # type: ignore[arg-type]
        self.desk.truth = world.truth
        self.started_at = world.loop.time()
        self.sessions = Sessions(world.plan.session_s, 60.0, self._chance.randbytes)
        self.reception = Reception(self.desk, self.sessions, self.clock)
        self._lines: dict[str, Any] = {}
        self.owner.spawn(self._sweep(), "sweep").add_done_callback(self._ended)
        self.owner.spawn(Examiner(self.desk, made_up).run(), "examine").add_done_callback(self._ended)
        self.owner.spawn(Tidier(self.desk, self.clock).run(), "tidy").add_done_callback(self._ended)
        world.note(f"coordinator started, life {self._lives}")

    def crash(self) -> None:
        """kill -9."""
        if self.alive:
            self.alive = False
            self.owner.kill()
            self.store.crash()
            self._world.note("coordinator crashed")

    def receive(self, request: Request) -> None:
        """A message arrived at this machine."""
        request.served.append(self.owner.spawn(self._serve(request), request.route))

    async def _sweep(self) -> None:
        while True:
            await self.clock.sleep(SWEEP_S)
            try:
                self.desk.begin(leasing.sweep(self.book, self.desk.when()))
                self.desk.begin(proving.sweep(self.book, self.desk.when(), self._chance.randbytes(32).hex()))
            except Refused:
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.truth.violated("coordinator fault", f"{task.get_name()}: {error!r}")

    def _broken(self, fault: StorageError) -> None:
        self.desk.broken(fault)
        self._world.note("coordinator cannot write")

    async def _serve(self, request: Request) -> None:
        try:
            raw = await (self._gave(request) if request.route == "get" else self._answered(request))
        except Refused as error:
            raw = wire.encode(wire.DownFrame(msg=error.told()))
        except Exception as error:  # whatever it is, it is a fault of the coordinator
            self._world.truth.violated("coordinator fault", f"{request.route}: {error!r}")
            raise
        if request.route != "chunk":
            self._world.network.reply(request, raw)

    async def _answered(self, request: Request) -> bytes:
        return wire.encode(await self._answer(request))

    async def _gave(self, request: Request) -> bytes:
        """As `NodeRoutes._give`."""
        node_id, sha256 = self._session(request).node_id, request.raw.decode()
        path = self.desk.path_of(sha256) if leasing.may_read(self.book, node_id, sha256) else None
        await asyncio.sleep(self._chance.random() * 0.01)
        if path is None:
            raise Refused(wire.RefusalCode.NOT_FOUND, "no task that this node holds names such a blob")
        return CONTENT + path.read_bytes()

    async def _took(self, request: Request) -> wire.DownFrame:
        """As `NodeRoutes._blob`."""
        node_id = self._session(request).node_id
        await self.blobs.put(node_id, request.raw[:64].decode(), request.raw[64:])
        return wire.DownFrame(msg=wire.Ack())

    def _session(self, request: Request) -> Session:
        return self.sessions.find(self.desk.when().now, request.token)

    async def _answer(self, request: Request) -> wire.DownFrame:
        if request.route == "nonce":
            return wire.DownFrame(msg=self.reception.nonce())
        if request.route == "put":
            return await self._took(request)
        frame = read_frame(request.raw)
        if request.route == "hello":
            return wire.DownFrame(msg=await self._hello(request, frame), re=0)
        session = self.sessions.find(self.clock.monotonic(), request.token)
        reply: Value = await self.reception.answer(session, frame)
        if isinstance(reply, wire.Offers):
            assert isinstance(frame.msg, wire.Pull)
            self._world.truth.offered(request.node, frame.msg, reply)
        elif isinstance(reply, wire.Receipt):
            reply = self._confused(request.node, reply)
        return wire.DownFrame(msg=reply, re=frame.seq)  # type: ignore[arg-type]

    async def _hello(self, request: Request, frame: wire.UpFrame) -> wire.Welcome:
        assert isinstance(frame.msg, wire.Hello)
        truth, node_id = self._world.truth, frame.msg.node_id
        truth.greeted = frame.msg.nonce
        try:
            welcome, _ = await self.reception.hello(frame)
        finally:
            truth.greeted = ""
        if (old := self._lines.pop(node_id, None)) is not None:
            self.desk.disconnect(node_id, old)
        mailbox = self._world.machines[request.node].link.mailbox
        self._lines[node_id] = line = lambda push: self._world.network.push(request.node, push, mailbox)
        self.desk.connect(node_id, line)
        return welcome

    def _confused(self, node: int, receipt: wire.Receipt) -> wire.Receipt:
        """Sometimes a receipt that was meant for another result of the same node."""
        known = self._answers.setdefault(node, [])
        known.extend(receipt.answers)
        if self._chance.random() < self._world.noise.confuse:
            return wire.Receipt(answers=tuple(self._chance.choice(known) for _ in receipt.answers))
        return receipt
