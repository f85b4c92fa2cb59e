"""The random numbers of llama.cpp's last sampler, from the seed alone.

It is C++'s `std::mt19937` under `std::uniform_real_distribution<double>`: two 32-bit words a number, the low one first.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

_WORDS = 624


def uniforms(seed: int) -> Iterator[float]:
    """Endless; each in [0, 1]. `seed` is a u32."""
    words = random.Random()  # noqa: S311  (its generator is MT19937; the whole state is set from the seed)
    words.setstate((3, (*_initial(seed), _WORDS), None))
    while True:
        low, high = words.getrandbits(32), words.getrandbits(32)
        yield (low + high * 2.0**32) / 2.0**64


def _initial(seed: int) -> list[int]:
    """`init_genrand` of the reference implementation (Matsumoto and Nishimura, 2002): Python's own seeding differs."""
    state = [seed & 0xFFFFFFFF]
    for index in range(1, _WORDS):
        before = state[-1]
        state.append((1812433253 * (before ^ before >> 30) + index) & 0xFFFFFFFF)
    return state
