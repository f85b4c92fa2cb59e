"""What can be said of an embedding without a model: the delivered rows are those that were committed to."""

from __future__ import annotations

import pytest

from agent.core.checks.claim import Claim, without_model
from agent.core.checks.ending import Ending
from agent.core.model import Commitment, EmbeddingInput
from agent.core.proof.opening import open_leaves, read_opening
from agent.core.proof.transcript import TranscriptBuilder
from tests.core.proof.making import header

ROWS = ((0.5, 1.0), (0.25, -1.0), (2.0, 4.0))


def ending(delivered: tuple[tuple[float, ...], ...] | None, *chosen: int):
    builder = TranscriptBuilder(0)
    builder.add_rows(ROWS)
    made = builder.finish()
    opened = read_opening(
        open_leaves(made.leaves, chosen), Commitment(header="", root=made.root, leaves=len(made.leaves))
    )
    found = without_model(Claim(EmbeddingInput(texts=("a", "b", "c")), header(made), opened.leaves, vectors=delivered))
    assert found.ending is not None
    return found.ending


def test_delivered_rows_are_compared_with_all_that_is_shown() -> None:
    assert ending(ROWS) == Ending(decided=True)
    assert ending(ROWS, 0, 2) == Ending(decided=False)
    assert ending(None) == Ending(decided=False)


@pytest.mark.parametrize("chosen", [(), (0,), (0, 2)])
def test_another_row_than_the_committed_one_is_a_fault_where_it_is_shown(chosen: tuple[int, ...]) -> None:
    assert ending(((0.5, 1.5), *ROWS[1:]), *chosen).faults
    assert bool(ending((*ROWS[:2], (2.0, 5.0)), *chosen).faults) is (chosen != (0,))


@pytest.mark.parametrize("delivered", [ROWS[:2], (*ROWS, (0.0, 0.0)), ((0.5,), *ROWS[1:])])
def test_too_few_too_many_or_narrower_rows_are_a_fault(delivered: tuple[tuple[float, ...], ...]) -> None:
    assert ending(delivered).faults
    assert ending(delivered, 0).faults


def test_a_number_that_no_float32_can_be_is_a_fault() -> None:
    assert ending(((1e300, 1.0), *ROWS[1:])).faults
