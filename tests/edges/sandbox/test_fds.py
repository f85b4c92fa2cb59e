"""A pipe is read to its end in bounded memory."""

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edges.sandbox.fds import Tail, read_until, readable
from tests.patience import within


def tail_of(chunks, limit):
    tail = Tail(limit)
    for chunk in chunks:
        tail.data_received(chunk)
    return tail.read()


@pytest.mark.parametrize(
    ("chunks", "limit", "kept"),
    [
        ([b"one\n", b"two\n"], 100, b"one\ntwo\n"),
        ([b"one\ntwo\nthree\n"], 8, b"three\n"),
        ([b"a" * 50], 8, b"a" * 8),
        ([b"x" * 50 + b"\n"], 4, b"xxx\n"),
        ([], 8, b""),
        ([b"something"], 0, b""),
    ],
)
def test_the_last_whole_lines_are_kept(chunks, limit, kept):
    assert tail_of(chunks, limit) == kept


@given(st.lists(st.binary(max_size=40)), st.integers(0, 50))
def test_the_tail_is_never_longer_than_its_limit_and_always_the_end(chunks, limit):
    kept = tail_of(chunks, limit)
    assert len(kept) <= limit
    assert b"".join(chunks).endswith(kept)


async def test_reading_stops_at_the_limit_at_its_mark_or_at_the_end():
    out, into = os.pipe()
    os.write(into, b"hello")
    assert await within(read_until(out, b"!", 3)) == b"hel"
    assert await within(read_until(out, b"o", 100)) == b"lo"
    os.write(into, b"lo")
    os.close(into)
    assert await within(read_until(out, b"!", 100)) == b"lo"
    os.close(out)


async def test_the_writing_end_wakes_when_nobody_reads_any_more():
    out, into = os.pipe()
    waiting = asyncio.ensure_future(readable(into))
    await asyncio.sleep(0)
    assert not waiting.done()
    os.close(out)
    await within(waiting)
    os.close(into)
