"""Tasks that wait, and timers, both as plain ordered structures."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

from agent.core.model import TaskKind

Line = tuple[str, TaskKind]
"""A model's digest and what is asked of it: a pool takes from some lines and never from others."""


class Queue:
    """First come, first served per line. A task that comes back takes its old place: its number."""

    def __init__(self) -> None:
        self._lines: dict[Line, list[tuple[int, str]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, line: Line, number: int, task_id: str) -> None:
        """A task waits. New tasks have the highest number, so this is an append but for the few that return."""
        insort(self._lines.setdefault(line, []), (number, task_id))
        self._size += 1

    def remove(self, line: Line, number: int, task_id: str) -> None:
        """A task waits no longer. Raises KeyError when it did not."""
        tasks = self._lines.get(line, [])
        place = bisect_left(tasks, (number, task_id))
        if place == len(tasks) or tasks[place] != (number, task_id):
            raise KeyError(task_id)
        del tasks[place]
        self._size -= 1
        if not tasks:
            del self._lines[line]

    def line(self, line: Line) -> Iterator[tuple[int, str]]:
        """(number, task id) of what waits in one line, oldest first. Do not change the queue meanwhile."""
        return iter(self._lines.get(line, ()))

    def lines(self) -> tuple[Line, ...]:
        """Lines that something waits in."""
        return tuple(self._lines)


DEADLINE, PAUSE = 0, -1
"""What rings when it is not a lease: the task's own deadline, or the end of a time in which a node does not get it."""


class Alarm(NamedTuple):
    """A time at which something is to be looked at again."""

    at: float
    task_id: str
    fence: int
    """Of the lease that ends; else DEADLINE or PAUSE."""


_FEW = 1024
"""Fewer alarms are not worth the search."""


class Alarms:
    """A heap that is hardly ever searched: an alarm that no longer holds is told by its owner when it rings.

    Those of tasks that are over are thrown out once they are half of the heap: most deadlines never come.
    """

    def __init__(self) -> None:
        self._heap: list[Alarm] = []
        self._over: set[str] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, at: float, task_id: str, fence: int) -> None:
        """Ring at `at`."""
        heapq.heappush(self._heap, Alarm(at, task_id, fence))

    def forget(self, task_id: str) -> None:
        """The task is over: nothing rings for it any more, now or when its turn comes."""
        self._over.add(task_id)
        if len(self._over) * 2 > max(len(self._heap), _FEW):
            self._heap = [alarm for alarm in self._heap if alarm.task_id not in self._over]
            heapq.heapify(self._heap)
            self._over.clear()

    def ringing(self, now: float) -> Iterator[Alarm]:
        """Remove and yield what is due. New alarms may be set meanwhile."""
        while self._heap and self._heap[0].at <= now:
            yield heapq.heappop(self._heap)
