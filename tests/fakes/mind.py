"""A coordinator's mind for tests: speaks the real protocol, remembers what it saw, misbehaves when told to.

It knows no transport; `fakes.coordinator` gives it sockets and `fakes.link` a link in memory.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from agent.core import wire
from agent.core.fingerprint import Cpu, Fingerprint, SandboxFacts, Versions
from agent.core.model import LeaseKey, Signed
from agent.core.proof.signed import session_digest
from agent.core.refusals import status_of
from agent.core.seq import ReplayWindow
from agent.edges.signing import KeyPair, verify
from tests.patience import PATIENCE_S

COORDINATOR_KEY = "c0" * 32
FINGERPRINT = Fingerprint(
    hostname="rig-7",
    cpu=Cpu(model="Test CPU", cores=2, threads=4, arch="x86_64"),
    memory_bytes=8 << 30,
    sandbox=SandboxFacts(backend="none", usable=False),
    versions=Versions(agent="0", python="3.11", kernel="6.1", os="Debian 12"),
)
KEY = LeaseKey(task_id="t1", attempt=1, fence=7)
SIGNED = Signed(payload="{}", key="aa" * 32, signature="bb" * 64)


@dataclass(frozen=True)
class Raw:
    """Exactly these bytes, whatever the protocol says."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Silence:
    """Never answers."""


class HangUp:
    """Breaks the connection."""


Reply = wire.DownMessage | Raw | Silence | HangUp | None
Act = Callable[[wire.UpFrame], Reply]


class TestNode:
    """A Greeter with a real key."""

    __test__ = False

    def __init__(self, node_id: str = "node-1", coordinator_key: str = COORDINATOR_KEY) -> None:
        self.keys = KeyPair.generate()
        self.node_id = node_id
        self.coordinator_key = coordinator_key
        self.fingerprint = FINGERPRINT
        self.running: tuple[LeaseKey, ...] = ()
        self.welcomes: list[wire.Welcome] = []

    def hello(self, nonce: str) -> wire.Hello:
        signature = self.keys.sign(session_digest(nonce, self.node_id, self.coordinator_key))
        return wire.Hello(
            node_id=self.node_id,
            nonce=nonce,
            signature=signature,
            fingerprint=self.fingerprint,
            running=self.running,
        )

    def welcomed(self, _hello: wire.Hello, welcome: wire.Welcome) -> None:
        self.welcomes.append(welcome)


class Mind:
    """Sessions, replay windows and a script. Every list below only grows."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        """Public keys by node id: who may say hello."""
        self.script: dict[type[wire.Up], list[Act]] = {}
        """Next answers, one a message; when they are used up the honest ones follow."""
        self.coordinator_key = COORDINATOR_KEY
        self.session_ttl_s = 1800
        self.clock_lead_s = 0.0
        self.offers: tuple[Signed, ...] = ()
        self.hellos: list[wire.Hello] = []
        self.frames: list[wire.UpFrame] = []
        """Every frame that was let in, in order."""
        self.blobs: dict[str, bytes] = {}
        self.arrived = asyncio.Condition()
        self._nonces: set[str] = set()
        self._windows: dict[str, ReplayWindow] = {}

    def enlist(self, node: TestNode) -> None:
        """Know this node's key."""
        self.nodes[node.node_id] = node.keys.public_key

    def next_time(self, message: type[wire.Up], *acts: Reply | Act) -> None:
        """Answer the next messages of this kind so."""
        as_acts = [act if callable(act) and not isinstance(act, type) else _constant(act) for act in acts]
        self.script.setdefault(message, []).extend(as_acts)

    def expire_sessions(self) -> None:
        """Forget every session."""
        self._windows.clear()

    async def seen(self, count: int) -> None:
        """Wait until so many frames were let in."""
        async with self.arrived, asyncio.timeout(PATIENCE_S):
            await self.arrived.wait_for(lambda: len(self.frames) >= count)

    def nonce(self) -> bytes:
        nonce = secrets.token_hex(32)
        self._nonces.add(nonce)
        return wire.encode(wire.DownFrame(msg=wire.Nonce(nonce=nonce)))

    async def hello(self, raw: bytes | str) -> tuple[Reply, int | None]:
        """The answer to a hello, and the seq that it answers."""
        frame = read_up(raw)
        if isinstance(frame, wire.Refusal):
            return frame, None
        if not isinstance(frame.msg, wire.Hello) or frame.seq != 0:
            return wire.Refusal(code=wire.RefusalCode.BAD_MESSAGE, message="say hello first"), frame.seq
        self.hellos.append(frame.msg)
        return self._scripted(frame) or self._welcome(frame.msg), 0

    async def take(self, raw: bytes | str, token: str) -> tuple[Reply, int | None]:
        """The answer to a frame within a session, and the seq that it answers."""
        frame = read_up(raw)
        if isinstance(frame, wire.Refusal):
            return frame, None
        window = self._windows.get(token)
        if window is None:
            return wire.Refusal(code=wire.RefusalCode.SESSION_EXPIRED, message="say hello again"), frame.seq
        following = window.admit(frame.seq)
        if following is None:
            return wire.Refusal(code=wire.RefusalCode.REPLAYED, message="seen before"), frame.seq
        self._windows[token] = following
        async with self.arrived:
            self.frames.append(frame)
            self.arrived.notify_all()
        return self._scripted(frame) or self._honest(frame.msg), frame.seq

    def knows(self, token: str) -> bool:
        return token in self._windows

    def _scripted(self, frame: wire.UpFrame) -> Reply:
        acts = self.script.get(type(frame.msg))
        return acts.pop(0)(frame) if acts else None

    def _welcome(self, hello: wire.Hello) -> wire.DownMessage:
        key = self.nodes.get(hello.node_id)
        if key is None:
            return wire.Refusal(code=wire.RefusalCode.UNKNOWN_NODE, message=f"who is {hello.node_id}?")
        digest = session_digest(hello.nonce, hello.node_id, self.coordinator_key)
        if hello.nonce not in self._nonces or not verify(key, hello.signature, digest):
            return wire.Refusal(code=wire.RefusalCode.BAD_SIGNATURE, message="not signed over a fresh nonce")
        self._nonces.discard(hello.nonce)
        token = secrets.token_urlsafe(24)
        self._windows[token] = ReplayWindow()
        return self.welcome(token)

    def welcome(self, token: str) -> wire.Welcome:
        return wire.Welcome(
            session=token,
            session_ttl_s=self.session_ttl_s,
            proto=1,
            server_time=time.time() + self.clock_lead_s,
            beat_s=10,
            lease_s=40,
        )

    def _honest(self, message: wire.UpMessage) -> Reply:
        match message:
            case wire.Beat(held=held):
                return wire.BeatAck(lease_ms=40_000, beat_s=10, renewed=held)
            case wire.Pull():
                return wire.Offers(offers=self.offers)
            case wire.Start(keys=keys):
                return wire.StartAck(leases=tuple(wire.Confirmed(key=key, ok=True, lease_ms=40_000) for key in keys))
            case wire.Result(deliveries=deliveries):
                return wire.Receipt(answers=tuple(wire.Answer(signed=SIGNED) for _ in deliveries))
            case _:
                return wire.Ack()


def read_up(raw: bytes | str) -> wire.UpFrame | wire.Refusal:
    """A node's frame, or the refusal that it earns."""
    if len(raw) > wire.MAX_MESSAGE_BYTES:
        return wire.Refusal(code=wire.RefusalCode.TOO_LARGE, message="too large")
    try:
        return wire.decode_up(raw)
    except msgspec.DecodeError as error:
        return wire.Refusal(code=wire.RefusalCode.BAD_MESSAGE, message=str(error))


def as_raw(reply: wire.DownMessage | Raw, re: int | None) -> Raw:
    """What goes over the wire for `reply`."""
    if isinstance(reply, Raw):
        return reply
    status, headers = 200, {}
    if isinstance(reply, wire.Refusal):
        status = status_of(reply.code)
        if reply.retry_after_s is not None:
            headers["Retry-After"] = str(int(reply.retry_after_s))
    return Raw(body=wire.encode(wire.DownFrame(msg=reply, re=re)), status=status, headers=headers)


def _constant(reply: Reply) -> Act:
    return lambda _frame: reply
