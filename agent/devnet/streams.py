"""What followers of a task see while it runs: streamed text in order, once, and every turn the task takes.

A follower reads from the task's buffer at its own pace, so that a slow one holds nobody up and needs no queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from agent.core.model import Value
from agent.core.wire import Chunk
from agent.devnet.core.effects import Moved
from agent.devnet.core.records import ENDED, TaskState

MAX_BUFFER_BYTES = 1 << 20
"""Text that is kept for late followers of one task. What is older is dropped: the result has it all."""


class ChunkSeen(Value, tag="chunk", tag_field="event"):
    """New text of the current attempt."""

    attempt: int
    index: int
    text: str
    tokens: int
    leaf: str = ""


class Restarted(Value, tag="restarted", tag_field="event"):
    """Another attempt begins: forget the text so far."""

    attempt: int


class StateSeen(Value, tag="state", tag_field="event"):
    """The task moved."""

    state: TaskState
    attempt: int = 0
    node_id: str = ""
    detail: str = ""


StreamEvent = ChunkSeen | Restarted | StateSeen


class Place(NamedTuple):
    """How far a follower has read: the last chunk that it has."""

    attempt: int = 0
    chunk: int = -1


@dataclass(slots=True, eq=False)
class _Stream:
    events: deque[StreamEvent] = field(default_factory=deque)
    dropped: int = 0
    """Events that left the buffer: the place of its first one."""
    bytes: int = 0
    attempt: int = 0
    index: int = -1
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, event: StreamEvent) -> None:
        self.events.append(event)
        self.bytes += _bytes(event)
        while self.bytes > MAX_BUFFER_BYTES:
            self.bytes -= _bytes(self.events.popleft())
            self.dropped += 1
        self.changed.set()
        self.changed = asyncio.Event()


class Streams:
    """Buffers of all tasks that are under way."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}

    def chunk(self, chunk: Chunk) -> None:
        """Text of a live lease. What came before, or again, is dropped: order matters more than a lost word."""
        stream = self._of(chunk.key.task_id)
        if chunk.key.attempt < stream.attempt or (chunk.key.attempt == stream.attempt and chunk.index <= stream.index):
            return
        stream.attempt, stream.index = chunk.key.attempt, chunk.index
        seen = ChunkSeen(
            attempt=chunk.key.attempt, index=chunk.index, text=chunk.text, tokens=chunk.tokens, leaf=chunk.leaf
        )
        stream.add(seen)

    def moved(self, notice: Moved) -> None:
        """A task moved; when it ended, its buffer is forgotten once its followers have read it."""
        stream = self._of(notice.task_id)
        attempt = notice.key.attempt if notice.key else 0
        if notice.state is TaskState.LEASED:
            if attempt > 1:
                stream.add(Restarted(attempt=attempt))
            stream.attempt, stream.index = attempt, -1
        stream.add(StateSeen(state=notice.state, attempt=attempt, node_id=notice.node_id, detail=notice.detail))
        if notice.state in ENDED:
            del self._streams[notice.task_id]

    async def follow(
        self, task_id: str, now: StateSeen, had: Place, quiet_s: float
    ) -> AsyncIterator[StreamEvent | None]:
        """Events of a task that has not ended, from the start of its buffer, until it ends.

        Chunks up to `had` are left out: the follower has them. None after `quiet_s` of silence. `now` is told where the
        buffer is empty, as after a restart.
        """
        stream = self._of(task_id)
        if not stream.events:
            stream.add(now)
        place = 0
        while True:
            place = max(place, stream.dropped)
            while place < stream.dropped + len(stream.events):
                event = stream.events[place - stream.dropped]
                place += 1
                if not _known(event, had):
                    yield event
                if isinstance(event, StateSeen) and event.state in ENDED:
                    return
                place = max(place, stream.dropped)
            try:
                async with asyncio.timeout(quiet_s):
                    await stream.changed.wait()
            except TimeoutError:
                yield None

    def _of(self, task_id: str) -> _Stream:
        return self._streams.setdefault(task_id, _Stream())


def event_bytes(event: StreamEvent) -> bytes:
    """As a server-sent event; a chunk has an id, so that a follower who comes back names the last one that it has."""
    name = event.__struct_config__.tag
    place = f"id: {event.attempt}.{event.index}\n" if isinstance(event, ChunkSeen) else ""
    return f"event: {name}\n{place}data: ".encode() + msgspec.json.encode(event) + b"\n\n"


def _known(event: StreamEvent, had: Place) -> bool:
    return isinstance(event, ChunkSeen) and event.attempt == had.attempt and event.index <= had.chunk


def _bytes(event: StreamEvent) -> int:
    return 200 + (len(event.text) * 2 if isinstance(event, ChunkSeen) else 0)
