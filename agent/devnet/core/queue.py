"""Tasks that wait, and timers, both as plain ordered structures."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple


class Queue:
    """First come, first served per model. A task that comes back takes its old place: its number."""

    def __init__(self) -> None:
        self._lines: dict[str, list[tuple[int, str]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, model_digest: str, number: int, task_id: str) -> None:
        """A task waits. New tasks have the highest number, so this is an append but for the few that return."""
        insort(self._lines.setdefault(model_digest, []), (number, task_id))
        self._size += 1

    def remove(self, model_digest: str, number: int, task_id: str) -> None:
        """A task waits no longer. Raises KeyError when it did not."""
        line = self._lines.get(model_digest, [])
        place = bisect_left(line, (number, task_id))
        if place == len(line) or line[place] != (number, task_id):
            raise KeyError(task_id)
        del line[place]
        self._size -= 1
        if not line:
            del self._lines[model_digest]

    def line(self, model_digest: str) -> Iterator[tuple[int, str]]:
        """(number, task id) of what waits for one model, oldest first. Do not change the queue meanwhile."""
        return iter(self._lines.get(model_digest, ()))

    def models(self) -> tuple[str, ...]:
        """Models that something waits for."""
        return tuple(self._lines)


class Alarm(NamedTuple):
    """A time at which something is to be looked at again."""

    at: float
    task_id: str
    fence: int
    """0 for the task's own deadline."""


class Alarms:
    """A heap that is never searched: an alarm that no longer holds is told by its owner when it rings."""

    def __init__(self) -> None:
        self._heap: list[Alarm] = []

    def set(self, at: float, task_id: str, fence: int) -> None:
        """Ring at `at`."""
        heapq.heappush(self._heap, Alarm(at, task_id, fence))

    def ringing(self, now: float) -> Iterator[Alarm]:
        """Remove and yield what is due. New alarms may be set meanwhile."""
        while self._heap and self._heap[0].at <= now:
            yield heapq.heappop(self._heap)
