"""What asking for log-probabilities adds to a token, in models of real proportions.

A neighbour on the processor moves the time of a token by tenths, the candidates by hundredths. What they add does not
depend on the layers, so it is taken from the same model with one layer, where it stands out, in turns with the whole.
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
ROUNDS = 24
RESAMPLES = 1000
PROMPT = (FIRST_WORD,)
"""One token: as many evaluations as tokens, and no prefill that would dilute the figure."""


class _Round(NamedTuple):
    """Four generations, one after another."""

    thin_plain: Generated
    thin_asked: Generated
    plain: Generated
    asked: Generated


async def measure(shapes: Sequence[Proportions], *, rounds: int = ROUNDS) -> list[Row]:
    """Two rows a shape. Raises OSError where the disk has no room for a model."""
    return [row for shape in shapes for row in _rows(shape, await _rounds(shape, rounds))]


async def _rounds(shape: Proportions, rounds: int) -> list[_Round]:
    with tempfile.TemporaryDirectory() as home:
        async with AsyncExitStack() as running:

            async def start(name: str, layers: int) -> Engine:
                weights = write_model(Path(home) / f"{name}.gguf", shape._replace(layers=layers))
                return await running.enter_async_context(bare_engine(weights, Path(home) / f"{name}.sock"))

            thin, whole = await start("thin", 1), await start("whole", shape.layers)
            await _round(thin, whole)
            return [await _round(thin, whole) for _ in range(rounds)]


async def _round(thin: Engine, whole: Engine) -> _Round:
    each = [await generate(engine, PROMPT, TOKENS, top) for engine in (thin, whole) for top in (0, TOP)]
    return _Round(*each)


def _rows(shape: Proportions, rounds: list[_Round]) -> list[Row]:
    added_ms, plain_ms = _added_s(rounds) / TOKENS * 1000, median(one.plain.cpu_s for one in rounds) / TOKENS * 1000
    times = f"{TOP} candidates add {added_ms:.2f} ms of CPU to {plain_ms:.1f} ms a token"
    what = f"{shape.name}, vocabulary of {shape.vocabulary:,}: {times}"
    row = at_most(what, _ratio(rounds), 1.02, "×", 3)
    directly = ", ".join(
        f"{kind} {figure(rounds):.3f} × {_interval(rounds, figure)}"
        for kind, figure in (("CPU", _cpu_ratio), ("wall", _wall_ratio))
    )
    return [
        row._replace(figure=f"{row.figure} {_interval(rounds, _ratio)}"),
        Row("… with ÷ without, the whole model, medians", directly),
    ]


def _added_s(rounds: Sequence[_Round]) -> float:
    """To a whole generation."""
    return median(one.thin_asked.cpu_s - one.thin_plain.cpu_s for one in rounds)


def _ratio(rounds: Sequence[_Round]) -> float:
    return 1 + _added_s(rounds) / median(one.plain.cpu_s for one in rounds)


def _cpu_ratio(rounds: Sequence[_Round]) -> float:
    return median(one.asked.cpu_s for one in rounds) / median(one.plain.cpu_s for one in rounds)


def _wall_ratio(rounds: Sequence[_Round]) -> float:
    return median(one.asked.wall_s for one in rounds) / median(one.plain.wall_s for one in rounds)


def _interval(rounds: Sequence[_Round], figure: Callable[[Sequence[_Round]], float]) -> str:
    """Where `figure` lies for 95 % of resamples of the rounds."""
    rng = random.Random(7)
    figures = sorted(figure(rng.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    return f"(95 %: {figures[RESAMPLES // 40]:.3f} to {figures[-1 - RESAMPLES // 40]:.3f})"
