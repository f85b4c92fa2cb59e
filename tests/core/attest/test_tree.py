"""Digests of rows stand under a root, each in its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.attest.tree import BLOCK_ROWS, Digests, digest_in
from agent.core.attest.words import DIGEST_BYTES
from agent.core.errors import ProofError


def digests(rows: int) -> bytes:
    return b"".join(row.to_bytes(DIGEST_BYTES, "little") for row in range(rows))


@given(st.integers(1, 5 * BLOCK_ROWS), st.data())
def test_every_row_is_found_under_the_root(rows: int, data) -> None:
    row = data.draw(st.integers(0, rows - 1))
    made = Digests(digests(rows))

    assert digest_in(made.open(row), made.root, row, rows) == row.to_bytes(DIGEST_BYTES, "little")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: replace(it, digests=it.digests[:-1] + b"\xff"),
        lambda it: replace(it, digests=it.digests[:-DIGEST_BYTES]),
        lambda it: replace(it, path=it.path[:-32]),
        lambda it: replace(it, path=it.path + b"\0" * 7),
        lambda it: replace(it, path=b"\0" * len(it.path)),
    ],
)
def test_a_block_that_was_changed_is_under_no_root(spoil) -> None:
    made = Digests(digests(1000))

    with pytest.raises(ProofError):
        digest_in(spoil(made.open(700)), made.root, 700, 1000)


def test_a_block_of_another_place_is_not_taken() -> None:
    made = Digests(digests(1000))

    with pytest.raises(ProofError):
        digest_in(made.open(0), made.root, 700, 1000)


def test_a_root_that_is_no_root_is_refused_in_words() -> None:
    made = Digests(digests(10))

    with pytest.raises(ProofError, match="not hex"):
        digest_in(made.open(0), "zz", 0, 10)
