"""Hidden states as llama-server tells them, cut into chunks as they come."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import EngineError
from agent.core.hidden_states import StatesReader, peaks_of, states_request
from agent.core.model import Reason
from agent.core.proof.toploc import peaks

WIDTH = 4


def reply(rows: list[list[float]]) -> bytes:
    """Of a llama-server b1-86a2835."""
    return json.dumps([{"index": 0, "embedding": rows}], separators=(",", ":")).encode()


def read(raw: bytes, skip: int, count: int, cuts: list[int] = []) -> list[list[list[float]]]:  # noqa: B006
    reader, at = StatesReader(skip, count), [0, *sorted(cuts), len(raw)]
    chunks = [chunk for one, other in itertools.pairwise(at) for chunk in reader.feed(raw[one:other])]
    reader.close()
    return [[json.loads(b"[" + row + b"]") for row in chunk] for chunk in chunks]


ROWS = [[float(at), -0.5, 1e-7, 2.5e8] for at in range(75)]


@given(st.lists(st.integers(0, len(reply(ROWS))), max_size=12))
def test_however_the_reply_is_cut_the_chunks_are_the_same(cuts):
    assert read(reply(ROWS), 5, 70, cuts) == [ROWS[5:37], ROWS[37:69], ROWS[69:]]


def test_a_chunk_has_32_rows_and_the_last_may_have_fewer():
    assert [len(chunk) for chunk in read(reply(ROWS[:64]), 0, 64)] == [32, 32]
    assert [len(chunk) for chunk in read(reply(ROWS[:33]), 32, 1)] == [1]


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", reply(ROWS[:9]), reply(ROWS[:11]), reply([]), b'[{"index":0,"embedding":[1,2]}]' * 20, b"x" * 4096],
    ids=["empty", "no reply", "a row less", "a row more", "no rows", "pooled", "no JSON"],
)
def test_other_than_a_state_of_each_token_is_refused(raw):
    with pytest.raises(EngineError) as refused:
        read(raw, 2, 8)
    assert refused.value.reason is Reason.ENGINE_GARBAGE


def test_a_row_without_an_end_is_not_kept():
    endless = reply(ROWS[:1])[:30] + b"1" * (3 << 20)
    with pytest.raises(EngineError, match="longer than"):
        list(StatesReader(0, 1).feed(endless))


def test_peaks_are_those_of_the_rows():
    rows = [[(-1) ** at * float(at + row) for at in range(80)] for row in range(3)]
    assert peaks_of([json.dumps(row)[1:-1].encode() for row in rows]) == peaks(rows)


@pytest.mark.parametrize(
    "row", ["null" + ",1" * 200, "[1]" + ",1" * 200, "0" + ",0" * 200, "1,2", "1e400" + ",1" * 200]
)
def test_rows_that_are_no_states_are_refused(row):
    with pytest.raises(EngineError) as refused:
        peaks_of([row.encode()])
    assert refused.value.reason is Reason.ENGINE_GARBAGE


def test_token_ids_are_asked_for_as_they_are():
    assert json.loads(states_request((2, 5, 9))) == {"content": [2, 5, 9]}
