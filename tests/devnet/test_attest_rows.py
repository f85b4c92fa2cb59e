"""Rows that were opened are computed anew: whoever left something out, or took it from elsewhere, is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from agent.core.attest.messages import OpenedRow
from agent.core.attest.tree import BLOCK_ROWS, READINGS, Digests, reading_of
from agent.core.attest.words import DIGEST_BYTES
from agent.devnet.attest_rows import faults
from agent.edges.gpu.matrix import Answer
from tests.core.attest.matrices import AGAIN, SEED, WORKS, Answered, answered, exhibit

A, B = WORKS


@pytest.fixture(scope="module")
def honest() -> list[Answered]:
    return [answered(work) for work in WORKS]


class Liar:
    """Opens rows of other digests than it computed. `spoil` changes them: those of all rows, or of one reading."""

    def __init__(self, answer: Answer, spoil: Callable[[bytes], bytes], reading: int | None = None) -> None:
        self._answer = answer
        whole = [told(answer, None), *(told(answer, it) for it in range(READINGS))]
        at = 0 if reading is None else reading + 1
        whole[at] = spoil(whole[at])
        self._first, *self._again = map(Digests, whole)

    @property
    def answered(self) -> Answered:
        return self, self._first.root, tuple(it.root for it in self._again)

    def open(self, rows: Sequence[int]) -> tuple[OpenedRow, ...]:
        before = A.rows - A.kept
        return tuple(
            OpenedRow(
                first=self._first.open(row),
                again=self._again[reading_of(row)].open(row - before) if row >= before else None,
            )
            for row in rows
        )


def told(answer: Answer, reading: int | None) -> bytes:
    """All digests, as the honest answer opens them: block by block, and of a reading those rows that it shows."""
    if reading is None:
        return b"".join(answer.open((row,))[0].first.digests for row in range(0, A.rows, BLOCK_ROWS))
    before = A.rows - A.kept
    rows = (row for row in range(before, A.rows) if reading_of(row) == reading)
    blocks = {(row - before) // BLOCK_ROWS: answer.open((row,))[0].again for row in rows}
    return b"".join(block.digests for _, block in sorted(blocks.items()) if block)


def half(raw: bytes) -> bytes:
    """The other half was never computed."""
    return bytes(len(raw) // 2) + raw[len(raw) // 2 :]


def test_an_honest_answer_is_right(honest) -> None:
    assert faults(exhibit(*honest)) == {}


def test_half_of_the_product_is_not_the_product(honest) -> None:
    found = faults(exhibit(Liar(honest[0][0], half).answered, honest[1]))

    assert list(found) == ["GPU-a"]
    assert "is not the product" in found["GPU-a"]


def test_a_layer_that_was_left_out_is_found(honest) -> None:
    shortened = answered(replace(A, layers=A.layers - 1))

    assert "is not the product" in faults(exhibit(shortened, honest[1]))["GPU-a"]


def test_an_answer_to_another_seed_is_worth_nothing(honest) -> None:
    precomputed = answered(A, seed="44" * 32)

    assert "is not the product" in faults(exhibit(precomputed, honest[1]))["GPU-a"]


def test_the_answer_of_one_gpu_is_none_for_the_other() -> None:
    twin = replace(A, device="GPU-b")
    one = answered(A)

    found = faults(exhibit(one, one, works=(A, twin)))

    assert list(found) == ["GPU-b"]


@pytest.mark.parametrize("reading", range(READINGS))
def test_who_did_not_keep_its_rows_for_every_reading_is_found(honest, reading: int) -> None:
    forgot = Liar(honest[0][0], lambda raw: bytes(len(raw)), reading)

    # Later readings go on from the root of the spoilt one, so they are others too.
    assert "another one when read again" in faults(exhibit(forgot.answered, honest[1]))["GPU-a"]


def test_the_first_digests_do_not_pass_for_the_second(honest) -> None:
    copied = answered(A, again=SEED)

    assert "another one when read again" in faults(exhibit(copied, honest[1]))["GPU-a"]


def test_a_row_that_was_to_be_kept_and_is_not_opened_again_is_a_fault(honest) -> None:
    told = exhibit(*honest)
    kept = tuple(OpenedRow(first=row.first) for row in told.opened[0])

    assert "not opened again" in faults(replace(told, opened=(kept, told.opened[1])))["GPU-a"]


def test_rows_of_another_place_are_under_another_root(honest) -> None:
    told = exhibit(*honest)
    turned = tuple(reversed(told.opened[0]))

    assert "not what was committed to" in faults(replace(told, opened=(turned, told.opened[1])))["GPU-a"]


def test_a_root_that_does_not_match_what_is_opened_is_found(honest) -> None:
    told = exhibit(*honest)

    for roots in (("00" * 32, told.roots[1]), ("zz", told.roots[1]), ("", told.roots[1])):
        assert "not what was committed to" in faults(replace(told, roots=roots))["GPU-a"]


def test_digests_made_up_after_the_drawing_are_not_under_the_root(honest) -> None:
    told = exhibit(*honest)
    row = told.opened[0][0]
    invented = OpenedRow(first=replace(row.first, digests=b"\x01" * (BLOCK_ROWS * DIGEST_BYTES)), again=row.again)

    opened = ((invented, *told.opened[0][1:]), told.opened[1])
    assert "not what was committed to" in faults(replace(told, opened=opened))["GPU-a"]


def test_matrices_wider_than_what_floats_hold_are_right_too() -> None:
    work = replace(B, rows=40, kept=8)

    assert faults(exhibit(answered(work, columns=2048), works=(work,), columns=2048)) == {}
    assert AGAIN != SEED
