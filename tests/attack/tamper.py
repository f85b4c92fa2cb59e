"""A node that speaks for itself: it computes honestly, and delivers or keeps something else than it computed.

The agent has no part that could be bent to tell such lies, so this node is written on the protocol alone.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any, NamedTuple

import msgspec

from agent.core import wire
from agent.core.model import Commitment, Outcome, Reason, Signed
from agent.core.proof.commitment import commit
from agent.core.proof.header import Header
from agent.core.proof.leaves import join_leaves, split_leaves
from agent.core.proof.signed import seal, seal_all
from agent.core.proof.transcript import Transcript
from agent.edges.clock import SystemClock
from agent.ports import EnginePool
from agent.stages.generation import Generation
from agent.stages.product import Product
from tests import builders
from tests.attack.field import Done, Field
from tests.attack.honest import sampled
from tests.attack.outcome import Counts, Found, count
from tests.attack.rows import row
from tests.devnet.node import ScriptedNode

TOP = 40


class Made(NamedTuple):
    """One task, done honestly and not yet delivered."""

    offer: wire.OfferBody
    product: Product
    transcript: Transcript
    header: Header


class Delivered(NamedTuple):
    """What the node says of it, and what it opens when it is asked to."""

    signed: Signed
    opened: bytes


class Speaker:
    """A scripted node with a real engine."""

    def __init__(self, node: ScriptedNode, pool: EnginePool) -> None:
        self.node = node
        self.pool = pool

    @property
    def keys(self) -> Any:
        return self.node.actor.keys

    async def make(self, field: Field, number: int) -> Made:
        """Take one task and do it."""
        asked = sampled(number, max_tokens=40)
        await field.submit(asked)
        facts = self.pool.facts
        credit = wire.Credit(pool=facts.name, model_digest=facts.model_digest, count=1)
        [offer] = await self.node.pull_for(credit, wait_s=5.0)
        await self.node.start(offer)
        generation = Generation(offer, SystemClock(), top_logprobs=TOP)
        async with contextlib.aclosing(self.pool.generate(offer.task)) as outputs:
            async for output in outputs:
                generation.take(output)
        product = generation.product()
        transcript = product.builder.finish()
        header = product.header(
            offer, facts, transcript, node_key=self.keys.public, output_sha256=_sha256(product.output)
        )
        return Made(offer, product, transcript, header)

    def honest(self, made: Made, commitment: Commitment | None = None, **changes: Any) -> wire.ResultBody:
        """The body of a result, but for what is changed in it."""
        offer, product = made.offer, made.product
        fields: dict[str, Any] = {
            **{"node_id": self.node.actor.node_id, "task_id": offer.task.task_id, "attempt": offer.attempt},
            **{"fence": offer.fence, "idem_key": offer.idem_key, "outcome": Outcome.SUCCEEDED},
            **{"reason": Reason.COMPLETED, "output_sha256": _sha256(product.output), "usage": product.usage},
            "output_bytes": len(product.output.encode()),
            "commitment": commitment or commit(made.header, made.transcript),
        }
        return wire.ResultBody(**{**fields, **changes})

    def sign(self, body: wire.ResultBody) -> Signed:
        return seal(wire.Role.RESULT, wire.encode(body), self.keys.public, self.keys.sign)

    async def deliver(self, field: Field, made: Made, delivered: Delivered) -> Found:
        """What becomes of it: refused by the coordinator, or by whoever checks the receipt."""
        message = wire.Result(deliveries=(wire.Delivery(signed=delivered.signed, output=made.product.output),))
        [answer] = (await self.node.call(message, wire.Receipt)).answers
        task_id = made.offer.task.task_id
        if answer.signed is None:
            return Found.refused("coordinator")
        receipt = msgspec.json.decode(answer.signed.payload, type=wire.ReceiptBody)
        if receipt.status is not wire.ReceiptStatus.ACCEPTED:
            return Found.refused("coordinator")
        bundle = await field.requester.receipt(task_id)
        return await field.found(Done(task_id, bundle, delivered.opened), leaves=0)


@contextlib.asynccontextmanager
async def speaking(field: Field, pool: EnginePool) -> AsyncIterator[Speaker]:
    """A scripted node with a key of its own."""
    key = field.coordinator.public_key
    async with ScriptedNode(field.coordinator.url, key, seed=field.chance.getrandbits(60)) as node:
        await node.join(field.coordinator.enrol_token(), fingerprint=builders.fingerprint(pools=(pool.facts,)))
        yield Speaker(node, pool)


Lie = Callable[[Speaker, Made, Random], Delivered]

HEADER_LIES: dict[str, Callable[[Header, Random], Any]] = {
    "task_id": lambda header, chance: f"t-{chance.getrandbits(96):024x}",
    "attempt": lambda header, _: header.attempt + 1,
    "fence": lambda header, _: header.fence + 1,
    "node_key": lambda _, chance: chance.randbytes(32).hex(),
    "nonce": lambda _, chance: chance.randbytes(32).hex(),
    "deadline_ms": lambda header, _: header.deadline_ms + 1,
    "model_digest": lambda _, chance: chance.randbytes(32).hex(),
    "temperature_micros": lambda header, _: header.temperature_micros + 1,
    "top_k": lambda header, _: header.top_k + 1,
    "top_p_micros": lambda header, _: header.top_p_micros - 1,
    "min_p_micros": lambda header, _: header.min_p_micros + 1,
    "seed": lambda header, _: header.seed ^ 1,
    "max_tokens": lambda header, _: header.max_tokens + 1,
    "stop": lambda _header, _: ("end",),
    "prompt_tokens": lambda header, _: header.prompt_tokens + 1,
    "completion_tokens": lambda header, _: header.completion_tokens - 1,
    "output_sha256": lambda _, chance: chance.randbytes(32).hex(),
    "samplers": lambda header, _: header.samplers[::-1],
    "min_keep": lambda header, _: header.min_keep + 1,
}
"""Every field that somebody else can compare. `engine`, `engine_digest` and `determinism` are the node's own word;
`prompt_sha256`, `request_sha256` and `finish` need the model (see the rows on prompts and truncation)."""


def header_field(speaker: Speaker, made: Made, chance: Random) -> Delivered:
    """Commit to a header of which one field is another."""
    name = chance.choice(list(HEADER_LIES))
    header = msgspec.structs.replace(made.header, **{name: HEADER_LIES[name](made.header, chance)})
    return _told(speaker, made, commit(header, made.transcript))


def header_byte(speaker: Speaker, made: Made, chance: Random) -> Delivered:
    """Put another bit into the header's bytes, where its text begins: it is no header any more, or another one."""
    raw = bytearray(made.header.encode())
    raw[chance.randrange(6, 40)] ^= 1 << chance.randrange(8)
    encoded = _base64(bytes(raw))
    return _told(speaker, made, msgspec.structs.replace(commit(made.header, made.transcript), header=encoded))


def root(speaker: Speaker, made: Made, chance: Random) -> Delivered:
    """Commit to a root of nothing."""
    honest = commit(made.header, made.transcript)
    return _told(speaker, made, msgspec.structs.replace(honest, root=chance.randbytes(32).hex()))


def leaf_count(speaker: Speaker, made: Made, chance: Random) -> Delivered:
    """Commit to a leaf more than there are."""
    honest = commit(made.header, made.transcript)
    return _told(speaker, made, msgspec.structs.replace(honest, leaves=honest.leaves + 1))


def leaf_bit(speaker: Speaker, made: Made, chance: Random) -> Delivered:
    """Open a leaf in which one bit is another."""
    leaves = list(made.transcript.leaves)
    at = chance.randrange(len(leaves))
    raw = bytearray(leaves[at])
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    leaves[at] = bytes(raw)
    return _told(speaker, made, opened=join_leaves(leaves))


def leaf_order(speaker: Speaker, made: Made, _chance: Random) -> Delivered:
    """Open the leaves in another order."""
    return _told(speaker, made, opened=join_leaves(made.transcript.leaves[::-1]))


def leaf_missing(speaker: Speaker, made: Made, chance: Random) -> Delivered:
    """Open all but one."""
    leaves = list(split_leaves(join_leaves(made.transcript.leaves)))
    del leaves[chance.randrange(len(leaves))]
    return _told(speaker, made, opened=join_leaves(leaves))


def path(speaker: Speaker, made: Made, chance: Random) -> Delivered:
    """Sign with others, and tell another sibling than the one that was signed."""
    bodies = [wire.encode(speaker.honest(made)), b"{}", b"[]"]
    signed = seal_all(wire.Role.RESULT, bodies, speaker.keys.public, speaker.keys.sign)[0]
    assert signed.batch is not None
    told = (chance.randbytes(32).hex(), *signed.batch.path[1:])
    batch = msgspec.structs.replace(signed.batch, path=told)
    return Delivered(msgspec.structs.replace(signed, batch=batch), join_leaves(made.transcript.leaves))


def signature(speaker: Speaker, made: Made, _chance: Random) -> Delivered:
    """Change the result after it was signed: it took no time at all."""
    signed = speaker.sign(speaker.honest(made))
    timings = msgspec.structs.replace(made.product.timings, running_ms=1)
    payload = wire.encode(speaker.honest(made, timings=timings)).decode()
    return Delivered(msgspec.structs.replace(signed, payload=payload), join_leaves(made.transcript.leaves))


TAMPERING: tuple[Lie, ...] = (
    *(header_field, header_byte, root, leaf_count, header_field),
    *(leaf_bit, leaf_order, leaf_missing, path, signature),
)


def _told(speaker: Speaker, made: Made, commitment: Commitment | None = None, opened: bytes | None = None) -> Delivered:
    kept = join_leaves(made.transcript.leaves) if opened is None else opened
    return Delivered(speaker.sign(speaker.honest(made, commitment)), kept)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@row("tamper", "a field of the header, the root, a leaf, a path or the signature tampered with", 50)
async def tamper(field: Field, runs: int) -> Counts:
    found = []
    async with field.engine() as pool, speaking(field, pool) as speaker:
        for number in field.numbers(runs):
            made = await speaker.make(field, number)
            lie = TAMPERING[number % len(TAMPERING)]
            found.append(await speaker.deliver(field, made, lie(speaker, made, field.chance)))
            await field.requester.cancel(made.offer.task.task_id)
    return count(found)


@row("replay", "the result of another task, or of another node, once more", 50)
async def replay(field: Field, runs: int) -> Counts:
    found = []
    async with field.engine() as pool, speaking(field, pool) as speaker, speaking(field, pool) as thief:
        before = await speaker.make(field, 0)
        await speaker.deliver(field, before, _told(speaker, before))
        for number in field.numbers(runs):
            stolen_by = (speaker, thief)[number % 2]
            made = await stolen_by.make(field, number + 1)
            delivered = _told(stolen_by, made, commit(before.header, before.transcript))
            found.append(await stolen_by.deliver(field, made, delivered))
            await field.requester.cancel(made.offer.task.task_id)
    return count(found)
