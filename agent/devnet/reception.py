"""What nodes say, whatever the transport: who speaks is checked here, what it means is for the core."""

from __future__ import annotations

import asyncio
from typing import assert_never

import msgspec

from agent.core.attest.messages import MatrixCommitted, MatrixOpened, MatrixReady, MatrixReread
from agent.core.model import Blob
from agent.core.wire import (
    PROTO_MAX,
    Ack,
    Beat,
    Bye,
    Chunk,
    Decline,
    DownMessage,
    EnrolReply,
    EnrolRequest,
    Hello,
    Nonce,
    Opening,
    Pull,
    RefusalCode,
    Result,
    Start,
    UpFrame,
    Welcome,
    decode_up,
)
from agent.devnet.attest import Attester
from agent.devnet.core import leasing, presence, settling
from agent.devnet.core.delivery import Sizes
from agent.devnet.core.proofs import opening, revealing
from agent.devnet.core.proofs.cases import MAX_OPENING_BYTES
from agent.devnet.core.proofs.records import Case, CaseState
from agent.devnet.core.rules import Refused, bad_message
from agent.devnet.desk import Clock, Desk
from agent.devnet.sessions import Session, Sessions

MAX_CHUNK_BYTES = 64 << 10
"""Sixteen times what a node coalesces; larger is no stream."""


class Reception:
    """Opens sessions and answers messages. Every method raises Refused."""

    def __init__(self, desk: Desk, sessions: Sessions, clock: Clock, attester: Attester | None = None) -> None:
        self.desk = desk
        self.sessions = sessions
        self._clock = clock
        self._openings = asyncio.Lock()
        self._attester = attester or Attester(desk, ())

    def nonce(self) -> Nonce:
        """The first word of a handshake."""
        return Nonce(nonce=self.sessions.nonce(self._clock.monotonic()))

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        """Trade a token for a node id."""
        return await self.desk.carry_out(presence.enrol(self.desk.book, self.desk.when(), request))

    async def hello(self, frame: UpFrame) -> tuple[Welcome, Session]:
        """Open a session."""
        if not isinstance(frame.msg, Hello):
            raise bad_message("a session opens with hello")
        if frame.seq != 0:
            raise bad_message(f"the hello has seq 0, not {frame.seq}")
        when = self.desk.when()
        node_id = frame.msg.node_id
        number = self.sessions.use_nonce(when.now, frame.msg.nonce, node_id)
        decision = presence.hello(self.desk.book, when, frame.msg.nonce, frame.msg)
        self.sessions.greeted(node_id, number)
        token, session = self.sessions.open(when.now, node_id)  # in the order of the hellos, whatever the disk does
        wanted = await self.desk.carry_out(decision)
        welcome = Welcome(
            session=token,
            session_ttl_s=int(self.sessions.ttl_s),
            proto=min(frame.msg.proto[1], PROTO_MAX),
            server_time=self._clock.wall(),
            beat_s=self.desk.book.rules.beat_s,
            lease_s=self.desk.book.rules.lease_s,
            wanted=wanted,
        )
        return welcome, session

    async def answer(self, session: Session, frame: UpFrame) -> DownMessage:  # noqa: PLR0911  (one return a message)
        """Answer one message of a session."""
        when = self.desk.when()
        self.sessions.check(when.now, session)
        session.admit(frame.seq)
        desk, node_id = self.desk, session.node_id
        match frame.msg:
            case Beat():
                ack = await desk.carry_out(presence.beat(desk.book, when, node_id, frame.msg))
                return self._attester.with_question(ack, when, node_id)
            case Pull():
                return await desk.pull(node_id, frame.msg)
            case Start():
                return await desk.carry_out(leasing.start(desk.book, when, node_id, frame.msg.keys))
            case Decline():
                return await desk.carry_out(leasing.decline(desk.book, when, node_id, frame.msg))
            case Chunk():
                return self._chunk(node_id, frame.msg)
            case Result():
                size_of = desk.blobs.size_of
                sizes = [Sizes(size_of(it.blob), size_of(it.artifact)) for it in frame.msg.deliveries]
                return await desk.carry_out(settling.deliver(desk.book, when, node_id, frame.msg, sizes))
            case Opening():
                return await self._opening(node_id, frame.msg)
            case MatrixReady() | MatrixCommitted() | MatrixReread() | MatrixOpened():
                return await self._attester.answer(when, node_id, frame.msg)
            case Bye():
                if not self.sessions.newest(session):
                    return Ack()  # said before the node came back: it must not end what was granted since
                return await desk.carry_out(presence.bye(desk.book, when, node_id, frame.msg))
            case Hello():
                raise bad_message("this session is open already")
            case _:
                assert_never(frame.msg)

    async def _opening(self, node_id: str, message: Opening) -> Ack:
        """One after the other: what a case names is on the disk before it names it, and nothing else stays there."""
        arriving = self.desk.book.docket.arriving
        if self._owed(node_id, message) is not None:
            arriving.add(message.challenge_id)
        try:
            async with self._openings:
                return await self._taken(node_id, message)
        finally:
            arriving.discard(message.challenge_id)

    def _owed(self, node_id: str, message: Opening) -> Case | None:
        """The case that it answers, whose leaves are here where it names some. Raises Refused."""
        case, blob = opening.owed(self.desk.book, node_id, message), message.blob
        if case is not None and blob is not None and self.desk.blobs.size_of(blob.sha256) != blob.bytes:
            what = "the opening is not here, or of another size: PUT /v1/blobs/<sha256> first"
            raise Refused(RefusalCode.NOT_FOUND, what)
        return case

    async def _taken(self, node_id: str, message: Opening) -> Ack:
        desk, blob = self.desk, message.blob
        case, content = self._owed(node_id, message), b""
        if case is not None and blob is not None:
            if case.state is CaseState.REVEALING:
                content = await self._revealed(blob)
            elif blob.bytes <= MAX_OPENING_BYTES:
                await desk.exhibits.take_over(blob.sha256, desk.blobs.path_of(blob.sha256))
        ack = await desk.carry_out(opening.take(desk.book, desk.when(), node_id, message, content))
        if blob is not None:
            desk.blobs.release(node_id, blob.sha256)
        return ack

    async def _revealed(self, blob: Blob) -> bytes:
        """What a validator shows of its verdict. Too much of it is not even read."""
        if blob.bytes > revealing.MAX_REVEALED_BYTES:
            return b""
        return await asyncio.to_thread(self.desk.blobs.path_of(blob.sha256).read_bytes)

    def _chunk(self, node_id: str, chunk: Chunk) -> Ack:
        if len(chunk.text) > MAX_CHUNK_BYTES:
            raise bad_message(f"a chunk of {len(chunk.text)} characters; at most {MAX_CHUNK_BYTES}")
        self.desk.chunk(node_id, chunk)
        return Ack()


def read_frame(raw: bytes | str) -> UpFrame:
    """Raises Refused(BAD_MESSAGE) that says where."""
    try:
        return decode_up(raw)
    except msgspec.DecodeError as error:
        raise bad_message(f"not a frame of this protocol: {error}") from error
