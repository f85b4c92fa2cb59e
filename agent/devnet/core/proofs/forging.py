"""Wrong answers that only the model itself tells from right ones.

Of about half of the leaves of tokens the claimed distributions are sharpened or flattened, each by as much as the draw
allows: the seed still draws every token, and every share still adds up. Of embeddings half of the rows are turned
towards a direction that is made of their own numbers in another order.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from agent.core.checks.claim import Claim, sampler_of
from agent.core.checks.claims import Position, Sampler, chunks
from agent.core.checks.draw import uniforms
from agent.core.checks.forward import check_closeness
from agent.core.checks.rows import rows_of
from agent.core.checks.sampling import drawn
from agent.core.checks.verdict import allowance
from agent.core.model import EmbeddingInput
from agent.core.proof.header import ProofKind
from agent.core.proof.leaves import Leaf, read_leaf
from agent.core.proof.transcript import TranscriptBuilder

OFF = 1.0
"""Mean difference of a forged leaf of 32 tokens from the right one: more than the widest limit (0.60) and honest noise
(0.2) together."""
FEWEST_TOKENS = 16
"""Leaves that are shorter are judged with their neighbours."""
_FACTORS = (1.4, 0.7, 1.8, 0.55, 2.4, 0.4, 3.2, 0.3)
"""By which log-probabilities are multiplied, the gentlest first."""
FEWEST_NUMBERS = 16
"""A row that is shorter cannot be turned unseen."""
PARALLEL: Final = 0.9
"""Cosine of a wrong row with the right one: calibrations ask for 0.99 at least."""


class Forged(NamedTuple):
    """A transcript's leaves, the last output of which may still be changed a little."""

    leaves: list[bytes]
    wrong: frozenset[int]
    kind: ProofKind


class _Token(NamedTuple):
    token_id: int | None
    top_ids: Sequence[int]
    top_logprobs: Sequence[float]
    text: str = ""


def forge(claim: Claim, chance: bytes) -> Forged | None:
    """Half of the answer wrong, two leaves at least, as chance would have it; None where that would show."""
    if isinstance(claim.given, EmbeddingInput):
        return _rows(claim, chance)
    sampler = sampler_of(claim.header)
    if sampler is None or claim.header.proof_kind is not ProofKind.TOKENS_F32 or not claim.header.n_probs:
        return None
    if sum(len(chunk.positions) for chunk in chunks(claim.leaves)) < FEWEST_TOKENS:
        return None
    forged = _forged(claim, sampler, chance)
    return Forged(_transcript(claim, forged), frozenset(forged), ProofKind.TOKENS_F32) if forged else None


def delivered(claim: Claim, output: str, leaves: Sequence[bytes]) -> str | None:
    """The output that goes with forged leaves; None where it would not look like the `output` of the right answer."""
    if not isinstance(claim.given, EmbeddingInput):
        return output
    told: dict[str, Any] = msgspec.json.decode(output)
    if claim.vectors is None or msgspec.json.encode(told).decode() != output:
        return None
    rows = rows_of([read_leaf(leaf) for leaf in leaves])
    if not all(_rounded(row) == tuple(row) for row in told["vectors"]):  # the forged ones would have more digits
        return None
    return msgspec.json.encode({**told, "vectors": rows}).decode()


# --------------------------------------------------------------------------- tokens


def _forged(claim: Claim, sampler: Sampler, chance: bytes) -> dict[int, tuple[Position, ...]]:
    """Leaf → its forged positions: half of the leaves, two at least, as chance would have it."""
    numbers = list(islice(uniforms(sampler.seed), claim.header.completion_tokens))
    every = chunks(claim.leaves)
    most = max(-(-len(every) // 2), 2)
    found: dict[int, tuple[Position, ...]] = {}
    for chunk in sorted(every, key=lambda it: hashlib.sha256(chance + it.leaf.to_bytes(4, "little")).digest()):
        scale = allowance(len(chunk.positions))
        places = zip(chunk.positions, numbers[chunk.start :], strict=False)
        positions = tuple(_bent(position, sampler, number, scale) for position, number in places)
        if len(found) < most and check_closeness(positions, chunk.positions).mean >= OFF * scale:
            found[chunk.leaf] = positions
    return found


def _bent(position: Position, sampler: Sampler, number: float, scale: float) -> Position:
    """The same candidates with other shares, from which the seed still draws the same token."""
    before, best, most = drawn(position, sampler, number), position, 0.0
    for bent in _scaled(position):
        off = check_closeness([bent], [position]).mean
        if off > most and drawn(bent, sampler, number) is before:
            best, most = bent, off
            if off >= 1.5 * OFF * scale:
                break
    return best


def _scaled(position: Position) -> Iterator[Position]:
    """Sharpened and flattened; what all listed candidates have together stays as it is."""
    whole = math.fsum(map(math.exp, position.logprobs))
    for factor in _FACTORS:
        scaled = [factor * one for one in position.logprobs]
        shift = math.log(whole) - math.log(math.fsum(map(math.exp, scaled)))
        yield position._replace(logprobs=_rounded([one + shift for one in scaled]))


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    layout = f"<{len(values)}f"
    rounded: tuple[float, ...] = struct.unpack(layout, struct.pack(layout, *values))
    return rounded


def _transcript(claim: Claim, forged: dict[int, tuple[Position, ...]]) -> list[bytes]:
    end = claim.leaves[-1]
    builder = TranscriptBuilder(max(len(it.ids) for chunk in chunks(claim.leaves) for it in chunk.positions))
    for chunk in chunks(claim.leaves):
        for position in forged.get(chunk.leaf, chunk.positions):
            builder.add(_Token(position.token, position.ids, position.logprobs))
    if not isinstance(end, Leaf):
        return list(builder.finish().leaves)
    builder.add_imprints(end.imprints)
    return list(builder.finish(end.end_logprob).leaves)


# --------------------------------------------------------------------------- rows


def _rows(claim: Claim, chance: bytes) -> Forged | None:
    rows = rows_of([leaf for leaf in claim.leaves if isinstance(leaf, Leaf)])
    if not rows or min(map(len, rows)) < FEWEST_NUMBERS:
        return None
    order = random.Random(chance).sample(range(len(rows)), len(rows))  # noqa: S311  (`chance` is all that is secret)
    wrong = frozenset(order[: max(-(-len(rows) // 2), 2)])
    builder = TranscriptBuilder(0)
    builder.add_rows([_turned(row, chance, at) if at in wrong else row for at, row in enumerate(rows)])
    return Forged(list(builder.finish().leaves), wrong, ProofKind.ROWS)


def _turned(row: Sequence[float], chance: bytes, at: int) -> tuple[float, ...]:
    """As long as the right one, `PARALLEL` to it, and with numbers like its own."""
    length = math.hypot(*row)
    mixed = random.Random(chance + at.to_bytes(4, "little")).sample(list(row), len(row))  # noqa: S311  (as above)
    along = sum(one * other for one, other in zip(row, mixed, strict=True)) / (length * length) if length else 0.0
    aside = [one - along * other for one, other in zip(mixed, row, strict=True)]
    width = math.hypot(*aside)
    if not width:
        return tuple(row)
    share = math.sqrt(1 - PARALLEL**2) * length / width
    return _rounded([PARALLEL * one + share * other for one, other in zip(row, aside, strict=True)])
