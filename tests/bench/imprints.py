"""The table of docs/proof.md, TOPLOC: how near honest hidden states are to each other, and how far others.

    python -m tests.bench.imprints gemma-3-270m-q4_k_m.gguf --cache /var/cache/gpu-agent/attack

Eleven texts of 64 tokens, 22 leaves a row; five minutes of processor time. `--only NAME` makes one row.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from agent.core.checks.imprints import imprinted_ids
from agent.core.checks.verdict import Thresholds
from agent.core.model import CompletionInput
from agent.core.proof.toploc import Distance, Peaks, distance, imprint
from agent.edges.clock import SystemClock
from agent.edges.models.quantised import quantised
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.verifier.engine import llama_replayer
from agent.edges.verifier.llama import LlamaReplayer
from tests.edges.verifier import claiming

TOKENS, LEAF, CONTEXT, TEXTS = 64, 32, 256, 11
TOPICS = (
    "A lighthouse keeper",
    "The price of bread",
    "def quicksort(",
    "Dear neighbours,",
    "Il était une fois",
    "2 + 2 =",
)
Ids = tuple[int, ...]


class Text(NamedTuple):
    prompt: Ids
    answer: Ids


class Row(NamedTuple):
    """How a node's states come to be others."""

    weights: str = ""
    """Quantisation of the weights; empty is as they are."""
    settings: Mapping[str, Any] = MappingProxyType({})
    edit: Callable[[Ids], Ids] = lambda prompt: prompt
    at_once: int = 1


SMALL_CACHE = {"args": ("-fa", "on", "-ctk", "q4_0", "-ctv", "q4_0")}
ROWS = {
    "honest": Row(),
    "honest, batches of 1,024, two threads": Row(settings={"context_tokens": 1024, "threads": 2}),
    "honest, four at a time": Row(settings={"slots": 4}, at_once=4),
    "honest, --no-repack": Row(settings={"args": ("--no-repack",)}),
    "honest, -fa off": Row(settings={"args": ("-fa", "off")}),
    "honest, --no-repack -fa off": Row(settings={"args": ("--no-repack", "-fa", "off")}),
    **{f"weights {kind}": Row(weights=kind) for kind in ("Q8_0", "Q5_1", "Q4_0", "Q2_K")},
    "KV cache q4_0": Row(settings=SMALL_CACHE),
    "one prompt token exchanged": Row(edit=lambda prompt: (*prompt[:2], prompt[-1] + 7, *prompt[3:])),
    "half of the prompt left out": Row(edit=lambda prompt: (prompt[0], *prompt[len(prompt) // 2 :])),
}


async def texts(weights: Path, home: Path) -> list[Text]:
    """What the true model says, greedy and drawn, as far as its tokens are told."""
    made = []
    async with claiming.pool(weights, home, context_tokens=1024) as pool, pool.replayer() as replayer:
        for number in range(TEXTS):
            given = CompletionInput(prompt=f"{TOPICS[number % len(TOPICS)]} (part {number + 1} of a long story) begins")
            how = {"temperature_micros": 800_000 * (number % 2), "seed": number + 1}
            claim = await claiming.claim(pool, given, max_tokens=TOKENS, **how)
            made.append(Text(await replayer.prompt_ids(given), imprinted_ids(claim.leaves)))
    return made


async def states(row: Row, weights: Path, cache: Path, home: Path, said: list[Text]) -> list[Peaks]:
    """Of every full leaf."""
    used = quantised(weights, row.weights, cache) if row.weights else weights
    sockets = Path(tempfile.mkdtemp(dir=home))
    asked = claiming.settings(used, sockets, states=True, **{"context_tokens": CONTEXT, **row.settings})
    async with llama_replayer(asked, Bubblewrap(home), SystemClock()) as replayer:
        line = asyncio.Semaphore(row.at_once)

        async def read(replayer: LlamaReplayer, text: Text) -> tuple[Peaks, ...]:
            async with line:
                found = await replayer.peaks(row.edit(text.prompt), text.answer)
            assert found is not None
            return found[: len(text.answer) // LEAF]

        return [one for found in await asyncio.gather(*(read(replayer, text) for text in said)) for one in found]


def told(name: str, found: list[Distance]) -> str:
    limits, leaves = Thresholds(), len(found)
    exponents, means = [one.exponents for one in found], [one.mean for one in found]
    over = sum(one.exponents > limits.exponents or one.mean > limits.mantissas for one in found)
    steps = f"{sum(means) / leaves:.1f} ({min(means):.1f} to {max(means):.1f})"
    return f"| {name} | {sum(exponents) / leaves:.1f} ({max(exponents)}) | {steps} | {over} of {leaves} |"


async def measure(weights: Path, cache: Path, names: Iterable[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="ga-") as folder:
        home = Path(folder)
        said = await texts(weights, home)
        own = await states(ROWS["honest"], weights, cache, home, said)
        for name in names:
            claimed = await states(ROWS[name], weights, cache, home, said)
            print(
                told(name, [distance(imprint(one), mine) for one, mine in zip(claimed, own, strict=True)]), flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="where other quantisations of the weights are kept")
    parser.add_argument("--only", choices=ROWS, action="append")
    asked = parser.parse_args()
    asyncio.run(measure(asked.weights, asked.cache, asked.only or ROWS))
