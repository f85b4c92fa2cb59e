"""All stages of one node, wired as the agent wires them, between a scripted coordinator and a scripted engine.

Signatures, transcripts and commitments are real; time is a ManualClock; the world is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from agent.core import wire
from agent.core.errors import ConflictError, EngineError, LinkError, LinkFault, StorageError
from agent.core.fingerprint import Pool
from agent.core.model import Blob, FinishReason, LeaseKey, Reason, Signed, TaskKind, TaskSpec, Usage
from agent.core.node import Node
from agent.core.proof.beacon import kept
from agent.core.proof.challenged import Kept
from agent.core.proof.signed import open_signed, seal, seal_all
from agent.core.watchdog import Pulse
from agent.edges.signing import KeyPair, verify
from agent.ports import Artifact, Delivered, EngineOutput, Finished, OutboxRow, Piece, Replayer, Room
from agent.stages.advertise import Advertise
from agent.stages.calls import Caller
from agent.stages.deliver import Deliver
from agent.stages.drain import Drain
from agent.stages.execute import Execute
from agent.stages.hearing import Hearing
from agent.stages.herald import Herald
from agent.stages.prove import Prove
from agent.stages.pull import Pull
from agent.stages.report import Report
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate
from agent.stages.stream import Stream
from agent.stages.validate import Limits, Validate
from agent.stages.watch import Watch
from tests import builders
from tests.fakes.clock import ManualClock
from tests.patience import PATIENCE_S
from tests.stages.paper_proofs import PaperProofs

Answer = Callable[[Any], wire.DownMessage]
DOWN = LinkError(LinkFault.UNREACHABLE, "the line is cut")


class PaperCoordinator:
    """Implements ports.Link. Honest, until `answers` says otherwise for a kind of message."""

    def __init__(self) -> None:
        self.keys = KeyPair.generate()
        self.messages: list[wire.UpMessage] = []
        self.chunks: list[wire.Chunk] = []
        self.blobs: dict[str, bytes] = {}
        self.answers: dict[type, Answer] = {}
        self.down = False
        self.uploading = 0
        self.line_is_free = asyncio.Event()
        """For blobs."""
        self.line_is_free.set()
        self._offers: asyncio.Queue[tuple[Signed, ...]] = asyncio.Queue()
        self._pushes: asyncio.Queue[wire.Push] = asyncio.Queue()
        self._seen = asyncio.Condition()

    def offer(self, body: wire.OfferBody) -> None:
        self.offer_signed(seal(wire.Role.OFFER, wire.encode(body), self.keys.public_key, self.keys.sign))

    def offer_signed(self, *signed: Signed) -> None:
        """The answer to one pull."""
        self._offers.put_nowait(signed)

    def offer_together(self, *bodies: wire.OfferBody) -> None:
        """Under one signature."""
        payloads = [wire.encode(body) for body in bodies]
        self.offer_signed(*seal_all(wire.Role.OFFER, payloads, self.keys.public_key, self.keys.sign))

    def push(self, message: wire.Push) -> None:
        self._pushes.put_nowait(message)

    def sent(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    def results(self) -> list[wire.ResultBody]:
        return [
            msgspec.json.decode(it.signed.payload, type=wire.ResultBody)
            for message in self.sent(wire.Result)
            for it in message.deliveries
        ]

    async def saw(self, kind: type, count: int = 1) -> Any:
        """Wait for message number `count` of a kind."""
        async with self._seen, asyncio.timeout(PATIENCE_S):
            await self._seen.wait_for(lambda: len(self.sent(kind)) >= count)
        return self.sent(kind)[count - 1]

    async def call(self, message: wire.UpMessage) -> wire.DownMessage:
        await asyncio.sleep(0)
        async with self._seen:
            self.messages.append(message)
            self._seen.notify_all()
        if self.down:
            raise DOWN
        if (answer := self.answers.get(type(message))) is not None:
            return answer(message)
        return await self._honest(message)

    async def _honest(self, message: wire.UpMessage) -> wire.DownMessage:
        match message:
            case wire.Pull():
                return wire.Offers(offers=await self._offers.get())
            case wire.Beat(held=held):
                return wire.BeatAck(lease_ms=40_000, beat_s=10, renewed=held)
            case wire.Start():
                return confirmed(message)
            case wire.Result():
                return self.receipts(message)
            case _:
                return wire.Ack()

    def receipts(self, message: wire.Result, keys: KeyPair | None = None, **changes: Any) -> wire.Receipt:
        """An answer for each delivery."""
        return wire.Receipt(
            answers=tuple(wire.Answer(signed=self.receipt(it.signed, keys, **changes)) for it in message.deliveries)
        )

    def receipt(self, signed: Signed, keys: KeyPair | None = None, **changes: Any) -> Signed:
        result = msgspec.json.decode(signed.payload, type=wire.ResultBody)
        body = wire.ReceiptBody(
            **{
                "receipt_id": "r1",
                "node_id": result.node_id,
                "task_id": result.task_id,
                "attempt": result.attempt,
                "fence": result.fence,
                "idem_key": result.idem_key,
                "status": wire.ReceiptStatus.ACCEPTED,
                "result_sha256": hashlib.sha256(signed.payload.encode()).hexdigest(),
                "received_at": 0,
                "amount_micros": 250,
                "currency": "USD",
                **changes,
            }
        )
        keys = keys or self.keys
        return seal(wire.Role.RECEIPT, wire.encode(body), keys.public_key, keys.sign)

    async def post(self, message: wire.Chunk) -> None:
        if self.down:
            raise DOWN
        self.chunks.append(message)

    async def put_blob(self, sha256: str, body: bytes) -> None:
        if self.down:
            raise DOWN
        self.uploading += 1
        await self.line_is_free.wait()
        self.uploading -= 1
        self.blobs[sha256] = body

    async def get_blob(self, sha256: str, size: int, write: Callable[[bytes], None]) -> None:
        if self.down:
            raise DOWN
        if sha256 not in self.blobs:
            raise LinkError(LinkFault.REFUSED, "no such blob", code=wire.RefusalCode.NOT_FOUND)
        await self.line_is_free.wait()
        write(self.blobs[sha256])

    async def pushes(self) -> AsyncIterator[wire.Push]:
        while True:
            yield await self._pushes.get()

    def describe(self) -> Mapping[str, str]:
        return {}

    async def close(self) -> None:
        return None


class PaperEngine:
    """Implements ports.EnginePool: says `words`, then finishes; a test may hold it or let it fail."""

    def __init__(self, slots: int = 2) -> None:
        self.facts: Pool = builders.pool(slots=slots)
        self.words = ["red", ", ", "green"]
        self.fails: EngineError | None = None
        self.unfit: EngineError | None = None
        self.finishes = True
        self.go = asyncio.Event()
        self.go.set()
        self.began = asyncio.Event()
        self.started = 0
        self.stopped = 0
        self.repeats: Replayer | None = None

    async def run(self, changed: Callable[[], None]) -> None:
        changed()
        await asyncio.Event().wait()

    async def check(self, _task: TaskSpec) -> None:
        if self.unfit is not None:
            raise self.unfit

    @contextlib.asynccontextmanager
    async def replayer(self) -> AsyncIterator[Replayer]:
        assert self.repeats is not None
        yield self.repeats

    async def generate(self, _task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        self.started += 1
        done = False
        try:
            yield Piece(self.words[0], 10, -0.5, (10, 11), (-0.5, -1.5))
            self.began.set()
            await self.go.wait()
            for number, word in enumerate(self.words[1:]):
                yield Piece(word, 20 + number, -0.1, (20 + number,), (-0.1,))
            if self.fails is not None:
                raise self.fails
            if self.finishes:
                usage = Usage(prompt_tokens=5, completion_tokens=len(self.words))
                yield Finished(finish=FinishReason.STOP, usage=usage, request_sha256="11" * 32)
            done = True
        finally:
            self.stopped += not done


class PaperOutbox:
    """Implements ports.Outbox and ports.Ledger in memory; `full` refuses writes, `unreadable` everything."""

    def __init__(self) -> None:
        self.rows: dict[str, OutboxRow] = {}
        self.ledger: dict[str, wire.ReceiptBody] = {}
        self.papers: dict[LeaseKey, Delivered] = {}
        self.full = False
        self.no_room_for_receipts = False
        self.unreadable = False

    async def put(self, row: OutboxRow) -> None:
        if self.full:
            raise StorageError("no space left", full=True, remedy="Make room")
        if row.idem_key not in self.rows and await self.settled(row.key, row.idem_key):
            raise ConflictError("this attempt ended before")
        self.rows[row.idem_key] = row

    async def pending(self, limit: int, skip: Collection[str] = ()) -> Sequence[OutboxRow]:
        self._check_readable()
        return [row for row in self.rows.values() if row.idem_key not in skip][:limit]

    async def unsent(self) -> Mapping[str, LeaseKey]:
        return {row.idem_key: row.key for row in self.rows.values()}

    async def settle(self, row: OutboxRow, receipt: Signed, body: wire.ReceiptBody) -> None:
        assert receipt.payload
        if self.no_room_for_receipts:
            raise StorageError("no space left", full=True, remedy="Make room")
        self.ledger.setdefault(row.idem_key, body)
        self.papers[row.key] = Delivered(offer=row.offer, result=row.result, receipt=receipt)
        self.rows.pop(row.idem_key, None)

    async def settled(self, key: LeaseKey, idem_key: str) -> bool:
        self._check_readable()
        ended = {(row.key.task_id, row.key.attempt) for row in self.rows.values()}
        ended |= {(body.task_id, body.attempt) for body in self.ledger.values()}
        return idem_key in self.rows or idem_key in self.ledger or (key.task_id, key.attempt) in ended

    async def delivered(self, key: LeaseKey) -> Delivered | None:
        self._check_readable()
        return self.papers.get(key)

    async def settled_many(self, offers: Sequence[tuple[LeaseKey, str]]) -> Sequence[bool]:
        return [await self.settled(key, idem_key) for key, idem_key in offers]

    def _check_readable(self) -> None:
        if self.unreadable:
            raise StorageError("the database is locked")


class PaperTranscripts:
    """Implements ports.Transcripts in memory."""

    def __init__(self) -> None:
        self.kept: dict[LeaseKey, bytes] = {}
        self.until: dict[LeaseKey, float] = {}
        self.fails: StorageError | None = None
        self.used_bytes = 0
        self.swept: list[float] = []
        self.unreadable = 0
        """So many reads fail."""

    async def keep(self, key: LeaseKey, transcript: bytes, until: float) -> None:
        assert until > 0
        if self.fails is not None:
            raise self.fails
        self.kept[key] = transcript
        self.until[key] = until

    async def read(self, key: LeaseKey) -> bytes | None:
        if self.unreadable:
            self.unreadable -= 1
            raise StorageError("the disk does not give it back")
        return self.kept.get(key)

    def room(self) -> Room:
        return Room(used_bytes=self.used_bytes, quota_bytes=1000)

    async def sweep(self, now: float) -> int:
        self.swept.append(now)
        return 0


class PaperArtifacts:
    """Implements ports.Artifacts in memory; what is kept as None was lost."""

    def __init__(self) -> None:
        self.kept: dict[LeaseKey, bytes | None] = {}
        self.fails: StorageError | None = None

    async def keep(self, key: LeaseKey, artifact: Artifact) -> None:
        self.kept[key] = artifact.path.read_bytes()

    def of(self, key: LeaseKey) -> Blob | None:
        if key not in self.kept:
            return None
        raw = self.kept[key] or b""
        return Blob(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw))

    async def read(self, key: LeaseKey) -> bytes | None:
        if self.fails is not None:
            raise self.fails
        return self.kept[key]

    def drop(self, key: LeaseKey) -> None:
        self.kept.pop(key, None)

    def retain(self, keys: Collection[LeaseKey]) -> None:
        self.kept = {key: raw for key, raw in self.kept.items() if key in keys}


class PaperIdentity:
    """Implements ports.Identity with real keys."""

    def __init__(self, coordinator: KeyPair) -> None:
        self.keys = KeyPair.generate()
        self.node_id = builders.NODE
        self.public_key = self.keys.public_key
        self.coordinator_key = coordinator.public_key

    def sign(self, digest: bytes) -> str:
        return self.keys.sign(digest)

    def verify(self, key: str, signature: str, digest: bytes) -> bool:
        return verify(key, signature, digest)


class Rig:
    """One node. `async with Rig() as rig` runs every loop."""

    def __init__(self, slots: int = 2, limits: Limits | None = None) -> None:
        """`limits`: it also checks what others computed."""
        self.clock = ManualClock()
        self.coordinator = PaperCoordinator()
        self.engine = PaperEngine(slots)
        self.outbox = PaperOutbox()
        self.transcripts = PaperTranscripts()
        self.identity = PaperIdentity(self.coordinator.keys)
        rng = random.Random(1)
        self.pulse = Pulse({"advertise": 60, "watch": 60, "report": 60}, started=0)
        self.spine = Spine(Node(builders.NODE), self.clock)
        self.node = self.spine.node
        pools = {"main": self.engine}
        self.caller = Caller(self.coordinator, self.clock, self.pulse, rng)
        self.stream = Stream(self.coordinator)
        self.validate: Validate | None = None
        if limits is not None:
            kinds = (*self.engine.facts.kinds, TaskKind.VERIFY)
            self.engine.facts = msgspec.structs.replace(self.engine.facts, kinds=kinds)
            self.validate = Validate(self.caller, self.identity, pools, limits, self.clock, lambda: "5a" * 32)
        self.execute = Execute(self.spine, self.caller, pools, self.stream, top_logprobs=40, validate=self.validate)
        self.storage = storage = StorageGate(self.spine)
        self.artifacts = PaperArtifacts()
        self.deliver = Deliver(self.spine, self.caller, self.identity, self.outbox, self.pulse, storage, self.artifacts)
        self.report = Report(self.spine, self.caller, self.identity, self.outbox, storage, self.deliver)
        self.herald = Herald(self.spine, self.identity, builders.fingerprint())
        self.proofs = PaperProofs()
        self.kept: Kept = kept
        self.hearing = hearing = Hearing(
            self.clock,
            self.caller,
            self.identity,
            self.outbox,
            self.transcripts,
            self.proofs,
            self._kept,
        )
        self.prove = Prove(
            self.spine,
            self.identity,
            pools,
            self.transcripts,
            retention_s=3600,
            storage=storage,
            artifacts=self.artifacts,
            swept_until=hearing.swept_until,
        )
        self.pull = Pull(self.spine, self.caller, self.identity, self.outbox)
        self.advertise = Advertise(
            self.spine, self.caller, self.herald, self.pulse, rng, drain_limit_s=60, hearing=hearing
        )
        self.watch = Watch(self.spine, self.pulse)
        self.drain = Drain(self.spine, self.pull, self.deliver, self.coordinator)
        self._tasks: list[asyncio.Task[None]] = []

    def _kept(self, promise: wire.BeaconPromise, beacon: wire.Beacon) -> None:
        """A test may set another check at any time."""
        self.kept(promise, beacon)

    async def __aenter__(self) -> Rig:
        self.herald.owes(await self.deliver.recall())
        await self.hearing.recall()
        loops = [
            self.advertise.run(),
            self.pull.run(["main"]),
            self.execute.run(),
            self.stream.run(),
            self.prove.run(),
            self.report.run(),
            self.deliver.run(),
            self.hearing.run(),
            self.watch.run(),
        ]
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        self.pool_ready(True)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        faults = [e for e in ended if isinstance(e, BaseException) and not isinstance(e, asyncio.CancelledError)]
        assert not faults, faults

    def pool_ready(self, ready: bool) -> None:
        from agent.core.events import PoolChanged

        self.engine.facts = msgspec.structs.replace(self.engine.facts, ready=ready)
        self.spine.feed(PoolChanged(pool=self.engine.facts))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a change of the node after which `condition` holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):  # some conditions are the world's, not the node's
                        await self.spine.changed()

    async def pass_time(self, seconds: float, step_s: float = 0.25) -> None:
        """Move the clock in small steps, letting everybody act between them."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            for _ in range(10):
                await asyncio.sleep(0)

    def opened(self, result: wire.Result) -> wire.ResultBody:
        """The body of a result's only delivery, once the node's signature was verified."""
        (delivery,) = result.deliveries
        raw = open_signed(wire.Role.RESULT, delivery.signed, self.identity.public_key, verify)
        return msgspec.json.decode(raw, type=wire.ResultBody)


def crash(reason: Reason = Reason.ENGINE_CRASHED) -> EngineError:
    return EngineError(reason, "the engine died: Illegal instruction")


def unreachable(_message: object) -> wire.DownMessage:
    """No answer, and nobody knows whether it was heard."""
    raise DOWN


def confirmed(message: wire.Start, *, ok: bool = True, lease_ms: int = 40_000, detail: str = "") -> wire.StartAck:
    """The same answer to every key."""
    leases = (wire.Confirmed(key=key, ok=ok, lease_ms=lease_ms, detail=detail) for key in message.keys)
    return wire.StartAck(leases=tuple(leases))
