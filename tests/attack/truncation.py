"""Texts that were cut off to save work, as if they had ended."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator
from itertools import islice

import msgspec

from agent.core.checks.claims import Position
from agent.core.checks.draw import uniforms
from agent.core.model import FinishReason, TaskSpec
from agent.ports import EngineOutput, EnginePool, Finished, Piece
from tests.attack.field import Field
from tests.attack.forger import fitted, sampler_of
from tests.attack.honest import sampled
from tests.attack.outcome import Counts, count
from tests.attack.pools import Warm
from tests.attack.rows import NO_CLAIM, row

END_OF_TEXT = 1
"""Of gemma's vocabulary."""


class Truncated(Warm):
    """Stops after a few tokens and says that the text was over. `forges`: the last becomes an end-of-text token whose
    log-probabilities are bent until the seed draws it."""

    def __init__(self, inner: EnginePool, chance: random.Random, *, forges: bool = False) -> None:
        super().__init__(inner)
        self._chance = chance
        self._forges = forges

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        length = self._chance.randint(20, 40)
        short = msgspec.structs.replace(task, max_tokens=length)
        shown = 0
        async with contextlib.aclosing(self.inner.generate(short)) as outputs:
            async for output in outputs:
                shown += isinstance(output, Piece)
                if isinstance(output, Finished):
                    if output.finish is FinishReason.STOP:
                        self.spared.add(task.task_id)  # it was over by itself
                    yield msgspec.structs.replace(output, finish=FinishReason.STOP)
                elif isinstance(output, Piece) and self._forges and shown == length:
                    yield self._ending(task, output, shown - 1)
                else:
                    yield output

    def _ending(self, task: TaskSpec, piece: Piece, at: int) -> Piece:
        sampler = sampler_of(task)
        number = next(islice(uniforms(sampler.seed), at, None))
        bent = fitted(Position(END_OF_TEXT, piece.top_ids, piece.top_logprobs), sampler, number)
        return Piece(text="", token_id=END_OF_TEXT, top_ids=bent.ids, top_logprobs=bent.logprobs)


@row("truncation", "cut off, said to have ended", 50)
async def plain(field: Field, runs: int) -> Counts:
    async with field.engine(slots=4) as pool:
        return count(await field.tried(Truncated(pool, field.chance), map(sampled, field.numbers(runs)), leaves=4))


@row("truncation-forged", "cut off, the end-of-text token forged; class F", 50, NO_CLAIM)
async def forged(field: Field, runs: int) -> Counts:
    async with field.engine(slots=4) as pool:
        forger = Truncated(pool, field.chance, forges=True)
        found = await field.tried(forger, map(sampled, field.numbers(runs)), leaves=4)
        return count(found)


@row("truncation-forged-x", "cut off, the end-of-text token forged; class X", 50)
async def forged_exact(field: Field, runs: int) -> Counts:
    async with field.engine() as pool:
        forger = Truncated(pool, field.chance, forges=True)
        return count(await field.tried(forger, map(sampled, field.numbers(runs)), leaves=4, exact=True))
