"""Draws that are not the seed's. Judged without any model: S alone must see them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from agent.core.model import TaskSpec
from agent.ports import EngineOutput, EnginePool, Piece, Replayer
from tests.attack.field import Field
from tests.attack.honest import sampled
from tests.attack.outcome import Counts, count
from tests.attack.pools import Warm
from tests.attack.rows import Attack, row

LIES: dict[str, tuple[str, dict[str, Any]]] = {
    "seed": ("another seed", {}),
    "temperature": ("temperature 0.6 for 0.8", {"temperature_micros": 600_000}),
    "top-k": ("the likeliest 10 for 40", {"top_k": 10}),
    "greedy": ("greedy for sampled", {"temperature_micros": 0}),
}


class OtherSampler(Warm):
    """Asks its engine for other draws than it commits to."""

    def __init__(self, inner: EnginePool, changes: dict[str, Any]) -> None:
        super().__init__(inner)
        self._changes = changes

    def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        changes = self._changes or {"seed": (task.sampling.seed + 1) % 0xFFFF_FFFF}
        sampling = msgspec.structs.replace(task.sampling, **changes)
        return self.inner.generate(msgspec.structs.replace(task, sampling=sampling))


class Editor(Warm):
    """Exchanges one token for the next likely one, and the text with it."""

    def __init__(self, inner: EnginePool, tokenizer: Replayer, chance: random.Random) -> None:
        super().__init__(inner)
        self._tokenizer = tokenizer
        self._chance = chance

    async def generate(self, task: TaskSpec) -> AsyncGenerator[EngineOutput, None]:
        async with contextlib.aclosing(self.inner.generate(task)) as outputs:
            everything = [output async for output in outputs]
        pieces = [at for at, output in enumerate(everything) if isinstance(output, Piece) and output.text]
        at = self._chance.choice(pieces)
        everything[at] = await self._edited(everything[at])
        for output in everything:
            yield output

    async def _edited(self, piece: EngineOutput) -> Piece:
        assert isinstance(piece, Piece)
        token = next(one for one in piece.top_ids if one != piece.token_id)
        return msgspec.structs.replace(piece, token_id=token, text=await self._tokenizer.text([token]))


def _enter(name: str, words: str, changes: dict[str, Any]) -> Attack:
    @row(f"s-{name}", f"S: {words}", 50)
    async def attack(field: Field, runs: int) -> Counts:
        async with field.engine() as pool:
            return count(await field.tried(OtherSampler(pool, changes), map(sampled, field.numbers(runs)), leaves=0))

    return attack


for _name, (_words, _changes) in LIES.items():
    _enter(_name, _words, _changes)


@row("s-edit", "S: one token of 64 exchanged", 50)
async def edit(field: Field, runs: int) -> Counts:
    async with field.engine() as pool, field.another_replayer() as tokenizer:
        editor = Editor(pool, tokenizer, field.chance)
        return count(await field.tried(editor, map(sampled, field.numbers(runs)), leaves=0))
