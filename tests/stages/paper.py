"""The world of a rig, in memory: a scripted coordinator and engine, and stores that a test may fill or break."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from agent.core import wire
from agent.core.errors import ConflictError, EngineError, LinkError, LinkFault, StorageError
from agent.core.fingerprint import Pool
from agent.core.model import Blob, FinishReason, LeaseKey, Reason, Signed, TaskSpec, Usage
from agent.core.proof.signed import seal, seal_all
from agent.edges.signing import KeyPair, verify
from agent.ports import Artifact, Delivered, EngineOutput, Finished, OutboxRow, Piece, Replayer, Room
from tests import builders
from tests.patience import PATIENCE_S

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


def crash(reason: Reason = Reason.ENGINE_CRASHED) -> EngineError:
    return EngineError(reason, "the engine died: Illegal instruction")


def unreachable(_message: object) -> wire.DownMessage:
    """No answer, and nobody knows whether it was heard."""
    raise DOWN


def confirmed(message: wire.Start, *, ok: bool = True, lease_ms: int = 40_000, detail: str = "") -> wire.StartAck:
    """The same answer to every key."""
    leases = (wire.Confirmed(key=key, ok=ok, lease_ms=lease_ms, detail=detail) for key in message.keys)
    return wire.StartAck(leases=tuple(leases))
