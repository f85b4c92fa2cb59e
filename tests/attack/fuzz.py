"""Broken and hostile bytes at everything that a verifier reads: each is refused in words, none ends the program."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice
from random import Random
from typing import NamedTuple

import msgspec

from agent.core import wire
from agent.core.checks.claims import Position, chunks, sampler
from agent.core.checks.draw import uniforms
from agent.core.checks.forward import check_closeness, check_exactness, check_plausibility, figures_sha256
from agent.core.checks.verdict import Metrics, Replayed, Thresholds, judge
from agent.core.errors import ProofError
from agent.core.model import CompletionInput
from agent.core.proof.commitment import commit, read_commitment
from agent.core.proof.header import decode_header
from agent.core.proof.leaves import check_leaves, join_leaves, read_leaf, split_leaves
from agent.core.proof.receipt import examine
from agent.core.proof.transcript import TranscriptBuilder
from agent.edges.signing import verify
from agent.ports import Piece
from agent.stages.recheck import Claim, without_model
from tests.attack.field import Field
from tests.attack.outcome import Counts
from tests.attack.rows import row
from tests.core.proof import making

HOSTILE = (0.0, -0.0, math.inf, -math.inf, 3.4e38, -3.4e38, 1e-45, 1.0, -1.0, 0.5, 700.0, -104.0, -1e-3)
"""What an f32 may hold and a log-probability should not, among some that it may."""
REFUSALS = (ProofError, msgspec.DecodeError, UnicodeDecodeError)


class Target(NamedTuple):
    """A reader, and bytes that it takes."""

    sound: bytes
    read: Callable[[bytes], object]


@cache
def targets() -> tuple[Target, ...]:
    """All readers of what nodes send and keep."""
    made, bundle = making.transcript(), making.bundle()
    header, kept = making.header(made), join_leaves(made.leaves)
    commitment = commit(header, made)
    key = making.NODE_KEYS.public_key
    return (
        Target(header.encode(), decode_header),
        Target(made.leaves[0], read_leaf),
        Target(kept, lambda raw: check_leaves(split_leaves(raw), commitment)),
        Target(kept, lambda raw: [read_leaf(leaf) for leaf in split_leaves(raw)]),
        Target(
            commitment.header.encode(),
            lambda raw: read_commitment(msgspec.structs.replace(commitment, header=raw.decode("latin-1")), key),
        ),
        Target(
            msgspec.json.encode(bundle),
            lambda raw: examine(msgspec.json.decode(raw, type=wire.ReceiptBundle), verify, transcript=kept),
        ),
    )


def mutated(sound: bytes, chance: Random) -> bytes:
    """Some bytes changed, cut out, doubled, or the end gone."""
    raw = bytearray(sound)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(6):
            case 0:
                raw[at : at + 1] = chance.randbytes(1)
            case 1:
                raw[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case 2:
                del raw[at : at + chance.randint(1, 64)]
            case 3:
                raw[at:at] = raw[at : at + chance.randint(1, 64)]
            case 4:
                raw[at:at] = chance.randbytes(chance.randint(1, 16))
            case _:
                del raw[at:]
    return bytes(raw)


def read_mutated(chance: Random) -> None:
    """One reader with one broken input. Whatever it raises that is no refusal is a crash."""
    target = chance.choice(targets())
    with contextlib.suppress(REFUSALS):
        target.read(mutated(target.sound, chance))


def check_hostile(chance: Random) -> None:
    """All checks on a transcript that can be read, and whose numbers make no sense."""
    builder = TranscriptBuilder(40)
    for _ in range(chance.randint(1, 40)):
        builder.add(_piece(chance))
    made = builder.finish()
    offered = {"temperature_micros": chance.choice((0, 1, 800_000, -5, 2**40)), "top_k": chance.choice((0, 1, 3, 40))}
    header = msgspec.structs.replace(making.header(made), n_probs=chance.choice((0, 1, 5)), **offered)
    claim = Claim(CompletionInput(prompt="x"), header, tuple(map(read_leaf, made.leaves)), "text")
    found = without_model(claim)
    numbers = list(islice(uniforms(header.seed), 64))
    replayed = []
    for chunk in chunks(claim.leaves):
        own = tuple(_sane(position) for position in chunk.positions)
        plausible = check_plausibility(chunk.positions, own, sampler(header), numbers[chunk.start :])
        check_exactness(chunk.positions, own)
        replayed.append(Replayed(chunk.leaf, check_closeness(chunk.positions, own), plausible, figures_sha256(own)))
    judge(Metrics(sampled=found.sampled, ending=found.ending, chunks=tuple(replayed)), Thresholds())


def _piece(chance: Random) -> Piece:
    count = chance.choice((0, 1, 2, 5))
    ids = tuple(chance.randrange(8) for _ in range(count))
    values = tuple(chance.choice(HOSTILE) for _ in range(count))
    if chance.random() < 0.5:
        values = tuple(sorted(values, reverse=True))
    return Piece(text="x", token_id=chance.choice((None, 3, 7)), top_ids=ids, top_logprobs=values)


def _sane(position: Position) -> Position:
    """What a model would have said there."""
    return Position(position.token, (3, 4, 5), (-0.2, -2.0, -4.0))


def fuzzed(runs: int, chance: Random) -> Counts:
    """Counts a crash as one that got through; `by` says which."""
    crashes: Counter[str] = Counter()
    for number in range(runs):
        try:
            (check_hostile if number % 10 == 0 else read_mutated)(chance)
        except Exception as error:  # noqa: BLE001  (a crash is what is looked for)
            crashes[f"{type(error).__name__}: {error}"[:60]] += 1
    crashed = crashes.total()
    return Counts(runs, crashed, 0, 0, runs - crashed, tuple(crashes.most_common(5)))


@row("fuzz", "broken and hostile bytes at every reader: none crashes it", 100_000)
async def fuzz(field: Field, runs: int) -> Counts:
    return fuzzed(runs if runs >= 10_000 else runs * 1000, field.chance)
