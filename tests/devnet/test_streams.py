"""What followers see, without a network."""

from __future__ import annotations

from contextlib import aclosing

from agent.core.model import LeaseKey
from agent.core.wire import Chunk
from agent.devnet.core.effects import Moved
from agent.devnet.core.records import TaskState
from agent.devnet.streams import MAX_BUFFER_BYTES, ChunkSeen, Place, Restarted, StateSeen, StreamEvent, Streams

QUEUED = StateSeen(state=TaskState.QUEUED)
NOTHING = Place()


def key(attempt: int) -> LeaseKey:
    return LeaseKey(task_id="t", attempt=attempt, fence=attempt)


def chunk(index: int, text: str = "x", *, attempt: int = 1) -> Chunk:
    return Chunk(key=key(attempt), index=index, text=text, tokens=1)


def moved(state: TaskState, attempt: int = 1) -> Moved:
    return Moved(task_id="t", state=state, key=key(attempt))


async def read(streams: Streams, had: Place = NOTHING) -> list[StreamEvent]:
    """What is there now, up to the first silence or the end."""
    events: list[StreamEvent] = []
    async with aclosing(streams.follow("t", QUEUED, had, 0.0)) as following:
        async for event in following:
            if event is None:
                break
            events.append(event)
    return events


def texts(events: list[StreamEvent]) -> list[str]:
    return ["|" if isinstance(it, Restarted) else it.text for it in events if isinstance(it, ChunkSeen | Restarted)]


async def test_a_chunk_is_shown_once_and_in_order() -> None:
    streams = Streams()
    for index, text in ((0, "a"), (0, "a"), (2, "c"), (1, "b"), (3, "d")):
        streams.chunk(chunk(index, text))
    assert texts(await read(streams)) == ["a", "c", "d"]


async def test_text_of_an_older_attempt_is_dropped() -> None:
    streams = Streams()
    streams.moved(moved(TaskState.LEASED, 1))
    streams.chunk(chunk(0, "old"))
    streams.moved(moved(TaskState.LEASED, 2))
    streams.chunk(chunk(1, "late", attempt=1))
    streams.chunk(chunk(0, "new", attempt=2))
    assert texts(await read(streams)) == ["old", "|", "new"]


async def test_a_follower_who_comes_back_gets_only_what_is_new() -> None:
    streams = Streams()
    for index in range(3):
        streams.chunk(chunk(index, str(index)))
    assert texts(await read(streams, Place(attempt=1, chunk=1))) == ["2"]


async def test_a_flood_of_text_drops_the_oldest_and_takes_no_more_memory() -> None:
    streams = Streams()
    for index in range(100):
        streams.chunk(chunk(index, "x" * 60_000))
    events = await read(streams)
    assert isinstance(events[-1], ChunkSeen)
    assert events[-1].index == 99
    assert sum(len(text) for text in texts(events)) <= MAX_BUFFER_BYTES


async def test_a_follower_is_let_go_when_the_task_ends_and_the_buffer_with_it() -> None:
    streams = Streams()
    following = streams.follow("t", QUEUED, NOTHING, 5.0)
    assert await anext(following) == QUEUED
    streams.moved(moved(TaskState.CANCELLED))
    assert [it.state async for it in following if isinstance(it, StateSeen)] == [TaskState.CANCELLED]
    assert streams._streams == {}


async def test_silence_is_told_so_that_the_connection_can_be_kept_alive() -> None:
    following = Streams().follow("t", QUEUED, NOTHING, 0.0)
    assert await anext(following) == QUEUED
    assert await anext(following) is None
    await following.aclose()
