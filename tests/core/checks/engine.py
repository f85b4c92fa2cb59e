"""A plain model of llama.cpp's sampling, to make honest claims with; and small claims for tables."""

from __future__ import annotations

import math
import random
import struct

from agent.core.checks.claims import Position, Sampler
from agent.core.checks.draw import uniforms

SAMPLER = Sampler(seed=7, temperature=0.8, top_k=40, top_p=0.95, min_p=0.0, min_keep=2)


def f32(value: float) -> float:
    [rounded] = struct.unpack("<f", struct.pack("<f", value))
    return rounded


def some_logits(chance: random.Random, vocabulary: int) -> list[float]:
    spread = chance.choice((0.5, 2.0, 6.0))
    return [f32(chance.gauss(0.0, spread)) for _ in range(vocabulary)]


def listed(logits: list[float], n_probs: int, token: int) -> Position:
    """What the engine tells: log-probabilities over the whole vocabulary, the likeliest first, as float32."""
    whole = math.log(sum(map(math.exp, logits)))
    ranked = sorted(range(len(logits)), key=lambda number: -logits[number])[:n_probs]
    return Position(token, tuple(ranked), tuple(f32(logits[number] - whole) for number in ranked))


def choose(logits: list[float], sampler: Sampler, number: float) -> int:
    """One token as llama.cpp draws it: top_k, top_p, min_p, temperature, then the first that reaches the number."""
    ranked = sorted(range(len(logits)), key=lambda one: -logits[one])
    if sampler.temperature <= 0:
        return ranked[0]
    if sampler.top_k > 0:
        ranked = ranked[: sampler.top_k]
    if sampler.top_p < 1:
        whole, so_far = sum(math.exp(logits[one]) for one in ranked), 0.0
        for count, one in enumerate(ranked, start=1):
            so_far += math.exp(logits[one]) / whole
            if so_far >= sampler.top_p and count >= sampler.min_keep:
                ranked = ranked[:count]
                break
    if sampler.min_p > 0:
        floor = logits[ranked[0]] + math.log(sampler.min_p)
        ranked = [one for at, one in enumerate(ranked) if logits[one] >= floor or at < sampler.min_keep]
    weights = [math.exp((logits[one] - logits[ranked[0]]) / sampler.temperature) for one in ranked]
    target, so_far = number * sum(weights), 0.0
    for one, weight in zip(ranked, weights, strict=True):
        so_far += weight
        if so_far >= target:
            return one
    return ranked[-1]


def generate(chance: random.Random, sampler: Sampler, *, tokens: int, vocabulary: int, n_probs: int) -> list[Position]:
    """Honest claims for a made-up model."""
    made = []
    for number, _ in zip(uniforms(sampler.seed), range(tokens), strict=False):
        logits = some_logits(chance, vocabulary)
        made.append(listed(logits, n_probs, choose(logits, sampler, number)))
    return made
