"""A cheaper computation behind a token that is said to have been withheld: what follows it is hard to repeat."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from agent.core.checks.claims import Position
from agent.core.checks.draw import uniforms
from agent.core.checks.reach import certain_draw
from agent.core.model import TaskSpec
from agent.ports import EngineOutput, Piece
from tests.attack.field import Field
from tests.attack.forger import sampler_of
from tests.attack.honest import sampled
from tests.attack.outcome import Counts, count
from tests.attack.pools import Warm
from tests.attack.rows import Wanted, row
from tests.attack.weights import cheaper

PRETEXT = "é"
"""Engines withhold tokens inside characters beyond ASCII: one must be in the text."""
EARLY = 4


class Withholder(Warm):
    """Withholds one of the first tokens, if nobody can be sure of one by drawing it again; else it does not cheat."""

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        async with contextlib.aclosing(self.inner.generate(task)) as outputs:
            everything = [output async for output in outputs]
        at = self._doubtful(task, [one for one in everything[:EARLY] if isinstance(one, Piece)])
        if at is None:
            self.spared.add(task.task_id)
        else:
            everything[at] = Piece(text=PRETEXT)
        for output in everything:
            yield output

    def _doubtful(self, task: TaskSpec, pieces: list[Piece]) -> int | None:
        sampler = sampler_of(task)
        for at, (piece, number) in enumerate(zip(pieces, uniforms(sampler.seed), strict=False)):
            if certain_draw(Position(None, piece.top_ids, piece.top_logprobs), sampler, number) is None:
                return at
        return None


class Hider(Warm):
    """Withholds every token but the first."""

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        shown = 0
        async with contextlib.aclosing(self.inner.generate(task)) as outputs:
            async for output in outputs:
                if isinstance(output, Piece) and shown:
                    yield Piece(text=output.text + PRETEXT * (shown == 1))
                else:
                    yield output
                shown += 1


@row("withhold", "weights in Q4_0, hidden behind a token said to be withheld; m=4", 50, Wanted(caught=0.9))
async def withhold(field: Field, runs: int) -> Counts:
    async with cheaper(field, "Q4_0", slots=4) as cheap:
        asked = (sampled(one, max_tokens=128) for one in field.numbers(runs))
        found = await field.tried(Withholder(cheap), asked, leaves=4)
    return count(found)


@row("withhold-all", "weights in Q2_K, every token said to be withheld", 50)
async def withhold_all(field: Field, runs: int) -> Counts:
    async with cheaper(field, "Q2_K", slots=4) as cheap:
        return count(await field.tried(Hider(cheap), map(sampled, field.numbers(runs)), leaves=4))
