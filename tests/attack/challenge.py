"""Challenges that are not answered, or with something else than was committed to; and beacons that were not promised.

Here nodes are scripted and their transcripts made up: what is looked at is who may open what, and by which draw.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import msgspec

from agent.core import wire
from agent.core.checks.verdict import Verdict
from agent.core.payloads import Judgement, ReceiptBundle
from agent.core.proof.opening import open_leaves
from agent.core.proof.receipt import examine
from agent.devnet.keys import verify
from tests.attack.field import Field
from tests.attack.outcome import Counts, Found, count
from tests.attack.rows import row
from tests.devnet.proofs.challenged import ALWAYS
from tests.devnet.proofs.test_served_challenges import Hall, hall

Answer = Callable[[Hall, wire.Challenge, Random], Awaitable[None]]


async def silence(it: Hall, _challenge: wire.Challenge, _chance: Random) -> None:
    """Never answer."""
    it.turn(ALWAYS.answer_s + 1)


async def too_late(it: Hall, challenge: wire.Challenge, _chance: Random) -> None:
    """Answer rightly, when the time is over."""
    it.turn(ALWAYS.answer_s + 1)
    await it.open(challenge)


async def refusal(it: Hall, challenge: wire.Challenge, chance: Random) -> None:
    """Say that it is gone, damaged, unknown or was not drawn."""
    said = chance.choice(list(wire.OpeningRefusal))
    await it.node.call(wire.Opening(challenge_id=challenge.challenge_id, refusal=said), wire.Ack)


async def one_bit(it: Hall, challenge: wire.Challenge, chance: Random) -> None:
    """Open it with one bit changed."""
    raw = bytearray(it.opener.opened(challenge.key.task_id))
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    await it.open(challenge, bytes(raw))


async def another(it: Hall, challenge: wire.Challenge, _chance: Random) -> None:
    """Open another task."""
    await it.open(challenge, it.opener.opened(await it.settled()))


async def too_few(it: Hall, challenge: wire.Challenge, _chance: Random) -> None:
    """Open nothing but the end."""
    leaves = it.opener.transcripts[challenge.key.task_id].leaves
    await it.open(challenge, open_leaves(leaves, [len(leaves) - 1]))


async def cut_off(it: Hall, challenge: wire.Challenge, chance: Random) -> None:
    """Open the beginning."""
    raw = it.opener.opened(challenge.key.task_id)
    await it.open(challenge, raw[: chance.randrange(len(raw))])


ANSWERS: tuple[Answer, ...] = (silence, too_late, refusal, one_bit, another, too_few, cut_off)


@row("challenge", "an opening that is missing, late, refused, changed, too short or another task's", 50)
async def challenge(field: Field, runs: int) -> Counts:
    return count([await _answered(field, ANSWERS[number % len(ANSWERS)]) for number in field.numbers(runs)])


async def _answered(field: Field, answer: Answer) -> Found:
    async with hall(_place(field)) as it:
        asked = await it.challenge()
        await answer(it, asked, field.chance)
        unopened = await it.judged(asked) is Judgement.UNOPENED
    return Found(Verdict.FAIL, ("opening",)) if unopened else Found(Verdict.PASS)


def _place(field: Field) -> Path:
    """A new coordinator's: a node whose stake is lost gets no more tasks."""
    return field.home / f"hall-{field.chance.getrandbits(60)}"


Lie = Callable[[ReceiptBundle, ReceiptBundle, Random], ReceiptBundle]


def reused(it: ReceiptBundle, before: ReceiptBundle, _chance: Random) -> ReceiptBundle:
    """The beacon of the epoch before: everybody knew it when the result was committed to."""
    return msgspec.structs.replace(it, beacon=before.beacon)


def renumbered(it: ReceiptBundle, before: ReceiptBundle, _chance: Random) -> ReceiptBundle:
    """The same under the number that was promised."""
    assert it.beacon is not None
    assert before.beacon is not None
    return msgspec.structs.replace(it, beacon=msgspec.structs.replace(it.beacon, value=before.beacon.value))


def chosen(it: ReceiptBundle, _before: ReceiptBundle, chance: Random) -> ReceiptBundle:
    """A value that was looked for after the result was known."""
    assert it.beacon is not None
    return msgspec.structs.replace(it, beacon=msgspec.structs.replace(it.beacon, value=chance.randbytes(32).hex()))


def promised_otherwise(it: ReceiptBundle, before: ReceiptBundle, _chance: Random) -> ReceiptBundle:
    """The receipt of another result, which promised that beacon."""
    return msgspec.structs.replace(it, receipt=before.receipt, beacon=before.beacon)


LIES: tuple[Lie, ...] = (reused, renumbered, chosen, promised_otherwise)


@row("beacon", "a coordinator's beacon that is reused, chosen afterwards, or was promised to another", 50)
async def beacon(field: Field, runs: int) -> Counts:
    found = []
    async with hall(_place(field)) as it:
        before = await _proof(it)
        for number in field.numbers(runs):
            honest = await _proof(it)
            verdict = examine(
                LIES[number % len(LIES)](honest, before, field.chance),
                verify,
                coordinator_key=it.coordinator.public_key,
            )
            found.append(Found.refused(verdict.error.check) if verdict.error else Found(Verdict.PASS))
            before = honest
    return count(found)


async def _proof(it: Hall) -> ReceiptBundle:
    """What anybody gets to see of a result that was challenged. An epoch later the session may be over."""
    await it.node.hello()
    challenge = await it.challenge()
    await it.open(challenge)
    assert await it.judged(challenge) is Judgement.PASSED
    return await it.requester.proof(challenge.key.task_id)
