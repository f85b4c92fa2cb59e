"""Hidden states that never were, as bits of bfloat16: each number is SplitMix64 of a seed and its place."""

from __future__ import annotations

_WORD = (1 << 64) - 1


def _mixed(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def made_up(seed: int, count: int) -> list[int]:
    """Half as many reach twice the magnitude, as if a few channels stood out; every 128 magnitudes in between occur."""
    return [_one(_mixed((seed << 32) + at)) for at in range(count)]


def _one(word: int) -> int:
    halvings = (word >> 8 & -(word >> 8)).bit_length()
    return (word >> 7 & 1) << 15 | (113 + halvings) << 7 | word & 127


def moved(bits: list[int], seed: int) -> list[int]:
    """Others nearby: three of four mantissas up to three steps higher, one of 64 values twice as large."""
    return [_moved(number, _mixed((seed + 1000 << 32) + at)) for at, number in enumerate(bits)]


def _moved(number: int, word: int) -> int:
    steps = 1 + (word >> 8) % 3 if word % 4 else 0
    doubled = number + (128 if (word >> 16) % 64 == 0 else 0)
    return doubled & 0xFF80 | min((number & 127) + steps, 127)
