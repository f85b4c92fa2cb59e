"""Rows that were opened are computed anew: whoever left something out, or took it from elsewhere, is found."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.core.attest.messages import OpenedRow
from agent.core.attest.tree import BLOCK_ROWS, Digests
from agent.core.attest.words import DIGEST_BYTES
from agent.devnet.attest_rows import faults
from agent.edges.gpu.matrix import Answer
from tests.core.attest.matrices import AGAIN, SEED, WORKS, answered, exhibit

A, B = WORKS


@pytest.fixture(scope="module")
def honest() -> list[tuple[Answer, str, str]]:
    return [answered(work) for work in WORKS]


def relaid(answer: Answer, digests: Digests, *, again: bool = False) -> tuple[Answer, str, str]:
    """The same answer, committed to other digests."""
    setattr(answer, "_again" if again else "_first", digests)
    return answer, answer._first.root, answer._again.root


def raw(answer: Answer, *, again: bool = False) -> bytearray:
    return bytearray((answer._again if again else answer._first)._raw)


def test_an_honest_answer_is_right(honest) -> None:
    assert faults(exhibit(*honest)) == {}


def test_half_of_the_product_is_not_the_product(honest) -> None:
    answer, _, _ = answered(A)
    spoilt = raw(answer)
    spoilt[: A.rows * DIGEST_BYTES // 2] = bytes(A.rows * DIGEST_BYTES // 2)

    found = faults(exhibit(relaid(answer, Digests(bytes(spoilt))), honest[1]))

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


def test_who_did_not_keep_its_rows_is_found_by_the_second_digests(honest) -> None:
    answer, _, _ = answered(A)
    forgot = relaid(answer, Digests(bytes(A.kept * DIGEST_BYTES)), again=True)

    assert "another one when read again" in faults(exhibit(forgot, honest[1]))["GPU-a"]


def test_the_first_digests_do_not_pass_for_the_second(honest) -> None:
    answer, _, _ = answered(A, again=SEED)

    assert (
        "another one when read again" in faults(exhibit((answer, honest[0][1], answer._again.root), honest[1]))["GPU-a"]
    )


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
