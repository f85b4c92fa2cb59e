"""Nodes that do what they promise, on engines that are set up in many ways: none is slashed, hardly one is doubted."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.devnet.core.asking import SamplingAsked
from tests.attack import prompts
from tests.attack.field import Asked, Field
from tests.attack.outcome import Counts, count
from tests.attack.pools import Warm
from tests.attack.rows import HONEST, Attack, row

GREEDY, WARM, WIDE = (
    SamplingAsked(temperature_micros=0),
    SamplingAsked(),
    SamplingAsked(temperature_micros=1_000_000, top_p_micros=900_000, min_p_micros=20_000),
)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "one-slot": ("one slot", {}),
    "four-slots": ("four slots, all busy", {"slots": 4}),
    "two-threads": ("two slots, two threads", {"slots": 2, "threads": 2}),
    "small-batches": ("batches of 64 and 16", {"slots": 2, "args": ("-b", "64", "-ub", "16")}),
    "no-flash": ("flash attention off", {"slots": 2, "args": ("-fa", "off")}),
    "kv-f32": ("KV cache in f32", {"slots": 2, "args": ("-ctk", "f32", "-ctv", "f32")}),
}


def asked(number: int, *, max_tokens: int = 64) -> Asked:
    """Chats and completions, greedy, sampled, and sampled otherwise."""
    return _asked(number, max_tokens, (WARM, GREEDY, WIDE, WARM)[number % 4])


def sampled(number: int, *, max_tokens: int = 64) -> Asked:
    """As most are asked for: by a seed."""
    return _asked(number, max_tokens, WARM)


def _asked(number: int, max_tokens: int, sampling: SamplingAsked) -> Asked:
    """With a seed of its own, so that a run can be repeated."""
    return Asked(prompts.given(number), max_tokens, msgspec.structs.replace(sampling, seed=number + 1))


def _enter(name: str, words: str, shape: dict[str, Any]) -> Attack:
    @row(f"honest-{name}", f"honest: {words}", 200, HONEST)
    async def attack(field: Field, runs: int) -> Counts:
        async with field.engine(**shape) as pool:
            found = await field.tried(Warm(pool), map(asked, field.numbers(runs)), leaves=4)
        return count(found)

    return attack


for _name, (_words, _shape) in SHAPES.items():
    _enter(_name, _words, _shape)


@row("honest-exact", "X: honest, to be repeated to the bit", 100, HONEST)
async def exact(field: Field, runs: int) -> Counts:
    async with field.engine() as pool:
        found = await field.tried(Warm(pool), map(asked, field.numbers(runs)), leaves=4, exact=True)
    return count(found)
