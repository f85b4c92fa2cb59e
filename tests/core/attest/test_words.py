"""The numbers of the challenge: the same in every library, and no way around computing them all."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from agent.core.attest.messages import Work
from agent.core.attest.words import column_keys, key_of, row_keys, second_bytes, words
from tests.core.attest.matrices import SEED, answered

WRAP = 1 << 32


def signed(value: int) -> int:
    return (value + (WRAP >> 1)) % WRAP - (WRAP >> 1)


def mixed(x: int) -> int:
    """The mixer in plain integers, by its definition."""
    x &= WRAP - 1
    x ^= x >> 16
    x = x * 0x21F0AAAD % WRAP
    x ^= x >> 15
    x = x * 0x735A2D97 % WRAP
    return x ^ x >> 15


def word(row_key: int, column_key: int) -> int:
    x = (row_key ^ column_key) & (WRAP - 1)
    x = x * 0x21F0AAAD % WRAP
    x ^= x >> 15
    x = x * 0x735A2D97 % WRAP
    return x ^ x >> 15


def numbers(count: int, first: int = 0):
    return np.arange(first, first + count, dtype=np.int32)


def test_every_entry_is_what_a_plain_reading_of_the_definition_gives() -> None:
    key = key_of(SEED, "A/GPU-1")
    made = words(row_keys(numbers(3, 1_000_000), key), column_keys(numbers(4), key))

    for row in range(3):
        row_key = mixed((mixed((1_000_000 + row) ^ key.row & (WRAP - 1)) + key.row_again) % WRAP)
        for column in range(4):
            column_key = mixed((mixed(column ^ key.column & (WRAP - 1)) + key.column_again) % WRAP)
            assert int(made[row, column]) == signed(word(row_key, column_key))


def test_the_key_is_the_digest_of_seed_and_purpose() -> None:
    digest = hashlib.sha256(b"gpu-agent/matrix/B\0" + bytes.fromhex(SEED)).digest()

    assert key_of(SEED, "B").row == int.from_bytes(digest[:4], "little", signed=True)


def test_no_two_rows_have_the_same_key() -> None:
    keys = row_keys(numbers(300_000), key_of(SEED, "A/GPU-1"))

    assert len(np.unique(keys)) == 300_000


def test_bytes_are_spread_evenly() -> None:
    key = key_of(SEED, "B")
    made = words(row_keys(numbers(512), key), column_keys(numbers(128), key)).view(np.uint8)

    counts = np.bincount(made.ravel(), minlength=256)
    expected = made.size / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 6 * (2 * 255) ** 0.5


def test_the_second_byte_is_the_floor_and_no_linear_part_of_a_sum() -> None:
    sums = np.array([[0, 255, 256, -1, -256, 65536 + 511]], dtype=np.int32)

    assert second_bytes(sums, np.int8).tolist() == [[0, 0, 1, -1, -1, 1]]


def test_the_golden_roots_of_a_small_challenge() -> None:
    """Whoever writes an engine of their own (CUDA, another library) must come to these."""
    _, root, again = answered(Work(device="GPU-a", rows=1500, kept=1000, layers=3))

    assert (root, again) == GOLDEN


@pytest.mark.parametrize("chunk_rows", [1, 7, 256, 5000])
def test_how_many_rows_are_computed_at_once_changes_nothing(chunk_rows: int) -> None:
    from agent.edges.gpu.matrix import Answer
    from agent.edges.gpu.matrix_numpy import NumpyArrays

    arrays = NumpyArrays()
    arrays.chunk_rows = chunk_rows
    answer = Answer(arrays, 64)

    assert (
        answer.commit(SEED, Work(device="GPU-a", rows=600, kept=99, layers=2))
        == (answered(Work(device="GPU-a", rows=600, kept=99, layers=2))[1])
    )


GOLDEN = (
    "cce36b1e70f41eca9a5639f7a68c4f43954367ea805de31ed762f60d9ae5ebcf",
    (
        "6f81e71a672ac2cdb1419b5a6614489ffb77140440997f5df0febe547f926676",
        "8c39d3acc08d1d80f2c74aedcd3c479c1c33a74eec47b16dd3a136a229158ee4",
        "238a12e5a9d29b2fcd3dfbb7b23c1338022015a0ddc2648578f4d27f421f1d3f",
        "30de7de6874fab08129efa5e15974d64435c5efb8a3380648458657aadd3eb99",
    ),
)
