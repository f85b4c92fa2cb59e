"""Decode cheaply, read the tokens with the true model, and bend its log-probabilities until the seed draws them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import islice

import msgspec

from agent.core.checks.claims import Position, Sampler
from agent.core.checks.draw import uniforms
from agent.core.checks.sampling import drawn
from agent.core.model import ChatInput, CompletionInput, TaskSpec
from agent.ports import EngineOutput, EnginePool, Piece, Replayer
from tests.attack.field import Field
from tests.attack.honest import sampled
from tests.attack.outcome import Counts, count
from tests.attack.pools import Warm
from tests.attack.rows import Attack, Wanted, row
from tests.attack.weights import cheaper

STEP = 0.02
MOST_STEPS = 2000
MIN_KEEP = 2
NOBODYS = 1 << 30
"""No vocabulary is as large."""
Bent = list[tuple[float, int]]
"""(log-probability, token), in no order."""


def sampler_of(task: TaskSpec) -> Sampler:
    """As the node will have to commit to it."""
    asked, million = task.sampling, 1_000_000
    return Sampler(
        seed=asked.seed,
        temperature=asked.temperature_micros / million,
        top_k=asked.top_k,
        top_p=asked.top_p_micros / million,
        min_p=asked.min_p_micros / million,
        min_keep=MIN_KEEP,
    )


def fitted(position: Position, sampler: Sampler, number: float) -> Position:
    """The position with log-probabilities that are bent as little as can be, so that `number` draws its token."""
    if drawn(position, sampler, number):
        return position
    ways = [_least(position, sampler, number, way) for way in (_raised, _lowered_before, _lowered_behind)]
    return min((bent for bent in ways if bent), key=lambda bent: _moved(position, bent))


def _least(
    position: Position, sampler: Sampler, number: float, way: Callable[[Position, float], Bent]
) -> Position | None:
    for step in range(1, MOST_STEPS):
        bent = _sorted(position.token, way(position, step * STEP))
        if drawn(bent, sampler, number):
            return bent
        if way is not _raised and step * STEP > 4.0:
            return None
    return None


def _pairs(position: Position) -> Bent:
    """With the token among them, as the last, if the model does not list it."""
    listed = list(zip(position.logprobs, position.ids, strict=True))
    if position.token is not None and position.token not in position.ids:
        listed[-1] = (listed[-1][0], position.token)
    return listed


def _own(position: Position) -> float:
    return next(value for value, token in _pairs(position) if token == position.token)


def _raised(position: Position, by: float) -> Bent:
    """The token itself seems likelier."""
    return [(value + by * (token == position.token), token) for value, token in _pairs(position)]


def _lowered_before(position: Position, by: float) -> Bent:
    """What is likelier than the token seems less so."""
    own = _own(position)
    return [(value - by * (value > own), token) for value, token in _pairs(position)]


def _lowered_behind(position: Position, by: float) -> Bent:
    """What is less likely than the token seems even less so."""
    own = _own(position)
    return [(value - by * (value < own), token) for value, token in _pairs(position)]


def _sorted(token: int | None, bent: Bent) -> Position:
    """A distribution again: most likely first, and what all have together is no more than 1."""
    over = max(0.0, math.log(sum(math.exp(value) for value, _ in bent)))
    ranked = sorted(((value - over, one) for value, one in bent), reverse=True)
    return Position(token, tuple(one for _, one in ranked), tuple(value for value, _ in ranked))


def _moved(before: Position, after: Position) -> float:
    known = dict(zip(before.ids, before.logprobs, strict=True))
    return sum(abs(value - known.get(token, value)) for token, value in zip(after.ids, after.logprobs, strict=True))


class Forger(Warm):
    """Tokens of a cheap engine under the true one's figures."""

    def __init__(self, cheap: EnginePool, true: Replayer) -> None:
        super().__init__(cheap)
        self._true = true

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        async with contextlib.aclosing(self.inner.generate(task)) as outputs:
            everything = [output async for output in outputs]
        pieces = [output for output in everything if isinstance(output, Piece)]
        for piece, position in zip(pieces, await self._forged(task, pieces), strict=True):
            yield msgspec.structs.replace(piece, top_ids=position.ids, top_logprobs=position.logprobs)
        for output in everything:
            if not isinstance(output, Piece):
                yield output

    async def _forged(self, task: TaskSpec, pieces: Sequence[Piece]) -> list[Position]:
        assert isinstance(task.input, ChatInput | CompletionInput)
        ids = [piece.token_id for piece in pieces if piece.token_id is not None]
        assert len(ids) == len(pieces), "a withheld token: the forger would have to guess it"
        prompt = await self._true.prompt_ids(task.input)
        own = await self._true.replay(prompt, ids, len(pieces[0].top_ids))
        sampler = sampler_of(task)
        numbers = islice(uniforms(sampler.seed), len(own))
        return [fitted(position, sampler, number) for position, number in zip(own, numbers, strict=True)]


class Alone(Warm):
    """Tokens of a cheap engine, each beside candidates that no model has: so the seed draws it, whichever it is."""

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        async with contextlib.aclosing(self.inner.generate(task)) as outputs:
            async for output in outputs:
                yield _alone(output) if isinstance(output, Piece) else output


def _alone(piece: Piece) -> Piece:
    if piece.token_id is None:
        return piece
    others = len(piece.top_ids) - 1
    likely = min(piece.logprob or 0.0, -0.1)
    return msgspec.structs.replace(
        piece,
        top_ids=(piece.token_id, *range(NOBODYS, NOBODYS + others)),
        top_logprobs=(likely, *[likely - 12.0] * others),
    )


@row("forge-alone", "forge: decode in Q2_K, claim no candidate but the token; m=4", 50)
async def _forge_alone(field: Field, runs: int) -> Counts:
    async with cheaper(field, "Q2_K", slots=1) as cheap:
        asked = (sampled(one, max_tokens=128) for one in field.numbers(runs))
        return count(await field.tried(Alone(cheap), asked, leaves=4))


def _enter(kind: str) -> Attack:
    @row(f"forge-{kind.lower()}", f"forge: decode in {kind}, prefill truly, bend to fit; m=8", 50, Wanted(caught=0.9))
    async def attack(field: Field, runs: int) -> Counts:
        async with cheaper(field, kind, slots=1) as cheap, field.another_replayer() as true:
            asked = (sampled(one, max_tokens=256) for one in field.numbers(runs))
            found = await field.tried(Forger(cheap, true), asked, leaves=8)
        return count(found)

    return attack


for _kind in ("Q2_K", "Q4_0"):
    _enter(_kind)
