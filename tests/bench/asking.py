"""What asking for log-probabilities adds to a token, in models of real proportions.

A neighbour on the processor moves the time of a token by tenths, the candidates by hundredths. What they add depends on
the vocabulary alone, so it is taken from a thin model with the same one, where it stands out, in turns with the whole.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.bench.bare import Engine, Generated, bare_engine, generate
from tests.bench.proportions import FIRST_WORD, Proportions, write_model
from tests.bench.table import Row, at_most

TOP = 40
TOKENS = 16
THIN_PAIRS = 4
RESAMPLES = 1000
PROMPT = (FIRST_WORD,)
"""One token: as many evaluations as tokens, and no prefill that would dilute the figure."""


class Pair(NamedTuple):
    """One after the other, so that both meet the same machine."""

    plain: Generated
    asked: Generated

    @property
    def added_s(self) -> float:
        return self.asked.cpu_s - self.plain.cpu_s


class Round(NamedTuple):
    thin: tuple[Pair, ...]
    whole: Pair


async def measure(shapes: Sequence[Proportions], rounds: int) -> list[Row]:
    """Two rows a shape. Raises OSError where the disk has no room for a model."""
    return [row for shape in shapes for row in rows(shape.name, shape.vocabulary, await _rounds(shape, rounds))]


async def _rounds(shape: Proportions, rounds: int) -> list[Round]:
    with tempfile.TemporaryDirectory() as home:
        async with AsyncExitStack() as running:

            async def start(name: str, model: Proportions) -> Engine:
                weights = write_model(Path(home) / f"{name}.gguf", model)
                engine = await running.enter_async_context(bare_engine(weights, Path(home) / f"{name}.sock"))
                await pair(engine, PROMPT)  # the first is dearer
                return engine

            thin, whole = await start("thin", shape.thin()), await start("whole", shape)
            return [await _round(thin, whole) for _ in range(rounds)]


async def _round(thin: Engine, whole: Engine) -> Round:
    return Round(tuple([await pair(thin, PROMPT) for _ in range(THIN_PAIRS)]), await pair(whole, PROMPT))


async def pair(engine: Engine, prompt: tuple[int, ...]) -> Pair:
    """A short generation without candidates and with them."""
    return Pair(await generate(engine, prompt, TOKENS, 0), await generate(engine, prompt, TOKENS, TOP))


def rows(name: str, vocabulary: int, rounds: Sequence[Round]) -> list[Row]:
    """What the candidates add beside the whole model's token, and what the whole model shows by itself."""
    added_ms, plain_ms = (seconds / TOKENS * 1000 for seconds in (_added_s(rounds), _plain_s(rounds)))
    times = f"{TOP} candidates add {added_ms:.2f} ms of CPU to {plain_ms:.1f} ms a token"
    row = at_most(f"{name}, vocabulary of {vocabulary:,}: {times}", _ratio(rounds), 1.02, "×", 3)
    directly = ", ".join(
        f"{kind} {figure(rounds):.3f} × {_interval(rounds, figure)}"
        for kind, figure in (("CPU", _cpu_ratio), ("wall", _wall_ratio))
    )
    return [
        row._replace(figure=f"{row.figure} {_interval(rounds, _ratio)}"),
        Row("… with ÷ without, the whole model, medians", directly),
    ]


def _added_s(rounds: Sequence[Round]) -> float:
    return median(pair.added_s for one in rounds for pair in one.thin)


def _plain_s(rounds: Sequence[Round]) -> float:
    return median(one.whole.plain.cpu_s for one in rounds)


def _ratio(rounds: Sequence[Round]) -> float:
    return 1 + _added_s(rounds) / _plain_s(rounds)


def _cpu_ratio(rounds: Sequence[Round]) -> float:
    return median(one.whole.asked.cpu_s for one in rounds) / _plain_s(rounds)


def _wall_ratio(rounds: Sequence[Round]) -> float:
    return median(one.whole.asked.wall_s for one in rounds) / median(one.whole.plain.wall_s for one in rounds)


def _interval(rounds: Sequence[Round], figure: Callable[[Sequence[Round]], float]) -> str:
    """Where `figure` lies for 95 % of resamples of the rounds."""
    rng = random.Random(7)
    figures = sorted(figure(rng.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    return f"(95 %: {figures[RESAMPLES // 40]:.3f} to {figures[-1 - RESAMPLES // 40]:.3f})"
