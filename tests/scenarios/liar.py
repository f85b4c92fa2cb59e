"""A coordinator that a test lets lie: the scripted fake with a key of its own, and a node that it has enrolled."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from agent.core import wire
from agent.core.model import Signed
from agent.core.proof.signed import seal
from agent.edges.identity import Enrolment, open_key, write_enrolment
from agent.edges.signing import KeyPair
from tests import builders
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.mind import Mind, Raw, Reply
from tests.scenarios.world import AgentProcess
from tests.stages.paper import confirmed

LEASE_MS = 8_000


class LyingMind(Mind):
    """Honest about everything that no script says otherwise; beats are quick."""

    def __init__(self, keys: KeyPair) -> None:
        super().__init__()
        self.keys = keys
        self.coordinator_key = keys.public_key

    def signed(self, body: wire.OfferBody) -> Signed:
        return seal(wire.Role.OFFER, wire.encode(body), self.keys.public_key, self.keys.sign)

    def welcome(self, token: str) -> wire.Welcome:
        return msgspec.structs.replace(super().welcome(token), beat_s=0.5)

    def offer(self, *bodies: wire.OfferBody | Signed) -> None:
        """Answer the next pull with these."""
        offers = tuple(body if isinstance(body, Signed) else self.signed(body) for body in bodies)
        self.next_time(wire.Pull, wire.Offers(offers=offers))

    def results(self) -> list[wire.ResultBody]:
        """Bodies of all results that were sent so far, repetitions included."""
        sent = [it for frame in self.frames if isinstance(frame.msg, wire.Result) for it in frame.msg.deliveries]
        return [msgspec.json.decode(delivery.signed.payload, type=wire.ResultBody) for delivery in sent]

    def count(self, kind: type[wire.Up]) -> int:
        return sum(isinstance(frame.msg, kind) for frame in self.frames)

    async def took(self, kind: type[wire.Up], count: int) -> None:
        """Wait until so many messages of a kind were let in."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.count(kind) >= count)

    def receipt(self, message: wire.Result, keys: KeyPair | None = None, **changes: Any) -> wire.Receipt:
        """An answer for each delivery."""
        signed = (self._receipt(delivery.signed, keys or self.keys, **changes) for delivery in message.deliveries)
        return wire.Receipt(answers=tuple(wire.Answer(signed=it) for it in signed))

    def _receipt(self, delivered: Signed, keys: KeyPair, **changes: Any) -> Signed:
        result = msgspec.json.decode(delivered.payload, type=wire.ResultBody)
        body = wire.ReceiptBody(
            **{
                "receipt_id": f"r-{result.task_id}",
                "node_id": result.node_id,
                "task_id": result.task_id,
                "attempt": result.attempt,
                "fence": result.fence,
                "idem_key": result.idem_key,
                "status": wire.ReceiptStatus.ACCEPTED,
                "result_sha256": hashlib.sha256(delivered.payload.encode()).hexdigest(),
                "received_at": 0,
                **changes,
            }
        )
        return seal(wire.Role.RECEIPT, wire.encode(body), keys.public_key, keys.sign)

    def _honest(self, message: wire.UpMessage) -> Reply:
        match message:
            case wire.Beat(held=held):
                return wire.BeatAck(lease_ms=LEASE_MS, beat_s=0.5, renewed=held)
            case wire.Start():
                return confirmed(message, lease_ms=LEASE_MS)
            case wire.Result():
                return self.receipt(message)
            case _:
                return super()._honest(message)


class Liar(FakeCoordinator):
    """A LyingMind on real sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.mind: LyingMind = LyingMind(KeyPair.generate())

    def enlist(self, agent: AgentProcess) -> None:
        """As if the agent had enrolled here before."""
        keys = open_key(agent.home / "state")
        enrolment = Enrolment(node_id=builders.NODE, coordinator_key=self.mind.coordinator_key, url=self.url)
        write_enrolment(agent.home / "state", enrolment)
        self.mind.nodes[builders.NODE] = keys.public_key


def raw(frame: wire.UpFrame, message: str) -> Raw:
    """A frame that answers `frame` with any text as its message."""
    return Raw(body=f'{{"re":{frame.seq},"msg":{message}}}'.encode())
