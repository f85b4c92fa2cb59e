"""TOPLOC: 258 bytes that tell hidden states of one model and prompt from those of another (arXiv 2501.16007).

Of the final hidden states of up to 32 tokens the 128 values of largest magnitude count, as bfloat16. Their bits are the
values, at their places, of a polynomial over the integers modulo a prime; the imprint is that polynomial. Whoever
has hidden states of his own evaluates it where *his* largest values lie: honest ones have nearly all exponents equal
and mantissas a few steps apart, others come to noise. Bytes and figures are those of the `toploc` package
(docs/proof.md, TOPLOC).

There is one way in, `peaks`, and it takes numbers alone: so neither the type of an array nor the precision it came in
can make an imprint of nothing.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from agent.core.errors import ProofError

TOP = 128
"""Values that count."""
IMPRINT_BYTES = 2 + 2 * TOP
PRIME = 65_497
"""The field: the largest prime that leaves room for the bits of every finite bfloat16, but for a few of the largest."""
_LEAST_MODULUS = 1 << 15
_MAGNITUDE, _EXPONENT, _MANTISSA, _MANTISSA_BITS = 0x7FFF, 0x7F80, 0x7F, 7


class Peaks(NamedTuple):
    """The 128 values of largest magnitude; of equal ones the first. Places ascend."""

    places: tuple[int, ...]
    """In the states of a chunk, one token's after the other's."""
    bits: tuple[int, ...]
    """bfloat16."""


class Distance(NamedTuple):
    """How far one's own states are from an imprint, as `toploc` counts."""

    exponents: int
    """Of 128: how many differ."""
    mean: float
    """Of the mantissas (0 to 127) behind equal exponents: how many steps apart. Infinite where no exponent is equal."""
    median: float


def peaks(rows: Sequence[Sequence[float]]) -> Peaks:
    """The peaks of hidden states, a row a token, of one width. Raises ProofError("toploc") where they cannot be the
    states of a model: too few, not finite, or next to all of them zero.
    """
    if len({len(row) for row in rows}) > 1:
        raise _degenerate("their rows differ in width")
    bits = [number for row in rows for number in _rounded(row)]
    magnitudes = [number & _MAGNITUDE for number in bits]
    if len(bits) < TOP:
        raise _degenerate(f"they are {len(bits)} values, {TOP} at least are needed")
    if max(magnitudes) >= _EXPONENT:
        raise _degenerate("a value is not finite")
    least = heapq.nlargest(TOP, magnitudes)[-1]
    if least == 0:
        raise _degenerate(f"fewer than {TOP} values differ from zero")
    above = [place for place, magnitude in enumerate(magnitudes) if magnitude > least]
    level = (place for place, magnitude in enumerate(magnitudes) if magnitude == least)
    places = sorted([*above, *(next(level) for _ in range(TOP - len(above)))])
    return Peaks(tuple(places), tuple(bits[place] for place in places))


def imprint(of: Peaks) -> bytes:
    """`u16` modulus, then 128 `u16` coefficients from the constant one up, big-endian."""
    modulus = _injective(of.places)
    coefficients = _interpolated([place % modulus for place in of.places], of.bits)
    return b"".join(number.to_bytes(2) for number in (modulus, *coefficients))


def distance(claimed: bytes, own: Peaks) -> Distance:
    """Own states against an imprint. Raises as `read_imprint` does."""
    modulus, coefficients = read_imprint(claimed)
    values = [_evaluated(coefficients, place % modulus) for place in own.places]
    pairs = list(zip(values, own.bits, strict=True))
    apart = sorted(
        abs((claim & _MANTISSA) - (bits & _MANTISSA)) for claim, bits in pairs if _exponent(claim) == _exponent(bits)
    )
    if not apart:
        return Distance(TOP, float("inf"), float("inf"))
    return Distance(TOP - len(apart), sum(apart) / len(apart), apart[len(apart) // 2])


def _degenerate(why: str) -> ProofError:
    return ProofError("toploc", f"these hidden states have no imprint: {why}")


def _rounded(row: Sequence[float]) -> list[int]:
    """Bits of the nearest bfloat16, of two the even one; of what is no finite float32, of infinity."""
    singles = array("I", array("f", row).tobytes())
    return [
        (bits + 0x7FFF + (bits >> 16 & 1) >> 16) & 0xFFFF if bits & 0x7F800000 != 0x7F800000 else _EXPONENT
        for bits in singles
    ]


def _exponent(bits: int) -> int:
    return (bits & _EXPONENT) >> _MANTISSA_BITS


def _injective(places: Sequence[int]) -> int:
    """The largest modulus that keeps the places apart."""
    for modulus in range(PRIME, _LEAST_MODULUS, -1):
        if len({place % modulus for place in places}) == len(places):
            return modulus
    raise _degenerate("no modulus keeps their places apart")


def _interpolated(places: Sequence[int], values: Sequence[int]) -> list[int]:
    """Coefficients of the polynomial below degree 128 through all points: Newton's divided differences, expanded."""
    differences = [value % PRIME for value in values]
    for step in range(1, len(places)):
        for at in range(len(places) - 1, step - 1, -1):
            run = pow(places[at] - places[at - step], -1, PRIME)
            differences[at] = (differences[at] - differences[at - 1]) * run % PRIME
    coefficients = [0] * len(places)
    for place, difference in zip(reversed(places), reversed(differences), strict=True):
        # Horner's scheme on polynomials: times (x - place), plus the difference.
        shifted = [0, *coefficients[:-1]]
        coefficients = [(up - place * same) % PRIME for up, same in zip(shifted, coefficients, strict=True)]
        coefficients[0] = (coefficients[0] + difference) % PRIME
    return coefficients


def _evaluated(coefficients: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % PRIME
    return value


def read_imprint(raw: bytes) -> tuple[int, list[int]]:
    """Modulus and coefficients. Raises ProofError("toploc") for bytes that no hidden states give, as a null one."""
    if len(raw) != IMPRINT_BYTES:
        raise ProofError("toploc", f"an imprint has {IMPRINT_BYTES} bytes, this one {len(raw)}")
    modulus, *coefficients = (int.from_bytes(raw[at : at + 2]) for at in range(0, len(raw), 2))
    if not any(coefficients[1:]):
        raise ProofError("toploc", "this imprint is null: it says the same of every place")
    if not _LEAST_MODULUS < modulus <= PRIME or max(coefficients) >= PRIME:
        raise ProofError("toploc", "this imprint is of no states: a number in it is not of the field")
    return modulus, coefficients
