"""TOPLOC's imprints, against what the `toploc` package made (tests/golden/toploc/make.py)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from agent.core.errors import ProofError
from agent.core.proof.toploc import IMPRINT_BYTES, TOP, Peaks, distance, imprint, peaks
from tests.golden.toploc.states import made_up, moved

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "toploc" / "vectors.json").read_text())
BATCH = 32


def as_floats(bits: list[int]) -> list[float]:
    return list(struct.unpack(f"<{len(bits)}f", b"".join(struct.pack("<I", number << 16) for number in bits)))


def chunks(bits: list[int], width: int) -> list[Peaks]:
    values = as_floats(bits)
    rows = [values[at : at + width] for at in range(0, len(values), width)]
    return [peaks(rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)]


@pytest.mark.parametrize("vector", GOLDEN["vectors"], ids=lambda vector: vector["name"])
def test_imprints_and_distances_are_those_of_the_toploc_package(vector):
    bits = made_up(vector["seed"], vector["rows"] * vector["width"])
    own = chunks(bits, vector["width"])
    assert [imprint(one).hex() for one in own] == vector["imprints"]
    for name, seen in (("same", own), ("moved", chunks(moved(bits, vector["seed"]), vector["width"]))):
        claimed = [bytes.fromhex(text) for text in vector["imprints"]]
        found = [list(distance(claim, one)) for claim, one in zip(claimed, seen, strict=True)]
        assert found == vector[name]


def test_the_vectors_hold_folded_places_and_a_distance():
    assert {vector["imprints"][0][:4] for vector in GOLDEN["vectors"]} > {"ffd9"}
    assert all(median >= 1 for vector in GOLDEN["vectors"] for _, _, median in vector["moved"])


@pytest.mark.parametrize(("single", "half"), [pair for pair in GOLDEN["rounding"] if int(pair[1], 16) & 0x7FFF])
def test_numbers_are_rounded_to_bfloat16_as_torch_rounds_them(single, half):
    value = struct.unpack(">f", bytes.fromhex(single))[0]
    assert peaks([[value] * TOP]).bits == (int(half, 16),) * TOP


def test_of_equal_magnitudes_the_first_count():
    found = peaks([[1.0] * 100, [-1.0] * 100])
    assert found.places == tuple(range(TOP))
    assert found.bits == (0x3F80,) * 100 + (0xBF80,) * 28


STATES = as_floats(made_up(1, 640))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[0.0] * 640],
        [[1.0] * (TOP - 1)],
        [[1.0] * (TOP - 1) + [0.0] * 600],
        [[*STATES[1:], float("nan")]],
        [[*STATES[1:], float("-inf")]],
        [[*STATES[1:], 1e39]],
        [[*STATES[1:], 3.4e38]],
        [STATES, STATES[:-1]],
    ],
    ids=["none", "zeros", "too few", "nearly all zero", "nan", "infinite", "no float32", "no bfloat16", "ragged"],
)
def test_what_cannot_be_hidden_states_has_no_imprint(rows):
    with pytest.raises(ProofError, match="these hidden states have no imprint") as refused:
        peaks(rows)
    assert refused.value.check == "toploc"


GOOD = imprint(peaks([STATES]))


@pytest.mark.parametrize(
    "claimed",
    [
        bytes.fromhex(GOLDEN["null"]),
        bytes(IMPRINT_BYTES),
        b"",
        GOOD[:-2],
        GOOD + b"\0\0",
        b"\0\0" + GOOD[2:],
        b"\xff\xda" + GOOD[2:],
        GOOD[:-2] + b"\xff\xd9",
        GOOD[:4] + bytes(IMPRINT_BYTES - 4),
    ],
    ids=[
        "toploc's null",
        "zeros",
        "empty",
        "short",
        "long",
        "no modulus",
        "high modulus",
        "no number of it",
        "constant",
    ],
)
def test_bytes_that_are_no_imprint_are_an_error_and_never_near(claimed):
    with pytest.raises(ProofError) as refused:
        distance(claimed, peaks([STATES]))
    assert refused.value.check == "toploc"


def test_states_of_another_kind_are_far():
    found = distance(GOOD, peaks([as_floats(made_up(2, 640))]))
    assert found.exponents > TOP * 3 // 4
