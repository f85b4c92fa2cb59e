"""Cheaper computations that are passed off as the true ones: other quantisations, a smaller KV cache, noise."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from agent.core.model import TaskSpec
from agent.edges.models.quantised import quantised
from agent.ports import EngineOutput, EnginePool, Piece
from tests.attack.field import Field
from tests.attack.honest import asked
from tests.attack.outcome import Counts, count
from tests.attack.pools import Warm
from tests.attack.rows import ALL, NO_CLAIM, Attack, Wanted, row

NEARLY_ALL = Wanted(caught=0.98)
SMALL_KV = {kind: ("-fa", "on", "-ctk", kind, "-ctv", kind) for kind in ("q4_0", "q8_0")}
NOISE = 0.01


@contextlib.asynccontextmanager
async def cheaper(field: Field, kind: str, *, slots: int) -> AsyncIterator[Warm]:
    """An engine with weights or a cache of another kind, which claims to be as it should be."""
    args = SMALL_KV.get(kind, ())
    weights = None if args else quantised(field.model.weights, kind, field.cache)
    async with field.engine(weights, slots=slots, args=args) as pool:
        yield Warm(pool, **field.claimed(slots))


class Noisy(Warm):
    """Right, but for a hundredth of every log-probability."""

    def __init__(self, inner: EnginePool, chance: random.Random) -> None:
        super().__init__(inner)
        self._chance = chance

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        async with contextlib.aclosing(self.inner.generate(task)) as outputs:
            async for output in outputs:
                yield self._disturbed(output) if isinstance(output, Piece) else output

    def _disturbed(self, piece: Piece) -> Piece:
        moved = [one * (1 + self._chance.gauss(0.0, NOISE)) for one in piece.top_logprobs]
        over = max(0.0, math.log(sum(map(math.exp, moved))))
        ranked = sorted(zip((one - over for one in moved), piece.top_ids, strict=True), reverse=True)
        return msgspec.structs.replace(
            piece, top_ids=tuple(token for _, token in ranked), top_logprobs=tuple(value for value, _ in ranked)
        )


def _slug(kind: str) -> str:
    return f"kv-{kind}" if kind in SMALL_KV else kind.lower()


def _close(kind: str, words: str, wanted: Wanted) -> Attack:
    @row(f"f-{_slug(kind)}", f"F: {words}", 50, wanted)
    async def attack(field: Field, runs: int) -> Counts:
        async with cheaper(field, kind, slots=4) as pool:
            found = await field.tried(pool, (asked(one, max_tokens=128) for one in field.numbers(runs)), leaves=4)
        return count(found)

    return attack


def _exact(kind: str, words: str) -> Attack:
    @row(f"x-{_slug(kind)}", f"X: {words}", 100, ALL)
    async def attack(field: Field, runs: int) -> Counts:
        async with cheaper(field, kind, slots=1) as pool:
            return count(await field.tried(pool, map(asked, field.numbers(runs)), leaves=4, exact=True))

    return attack


for _kind, _words, _wanted in (
    ("Q4_0", "weights in Q4_0", NEARLY_ALL),
    ("Q2_K", "weights in Q2_K", NEARLY_ALL),
    ("Q5_1", "weights in Q5_1", NEARLY_ALL),
    ("q4_0", "KV cache in q4_0", NEARLY_ALL),
    ("Q8_0", "weights in Q8_0, nearly lossless", NO_CLAIM),
):
    _close(_kind, _words, _wanted)

for _kind, _words in (("Q8_0", "weights in Q8_0"), ("q8_0", "KV cache in q8_0")):
    _exact(_kind, _words)


@row("x-noise", "X: log-probabilities off by 1 %", 100)
async def noise(field: Field, runs: int) -> Counts:
    async with field.engine() as pool:
        return count(
            await field.tried(Noisy(pool, field.chance), map(asked, field.numbers(runs)), leaves=4, exact=True)
        )
