"""A thread that works for an event loop: what many callers ask for at once goes there, and comes back, in one go."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from agent.core.errors import StorageError

J = TypeVar("J")
R = TypeVar("R")


class _Ask(NamedTuple, Generic[J, R]):
    job: J
    done: asyncio.Future[R]


class Lane(Generic[J, R]):
    """Does jobs in the order in which they were asked for, in groups of at most `group_max`.

    What is asked for in one turn of the loop is one group, and so is what gathers while the thread works: sixteen
    callers cost one wake-up of the thread and one of the loop. `work` gets a group and returns an outcome each; one
    that is an exception is raised to its caller. All callers share one event loop.
    """

    def __init__(self, name: str, work: Callable[[list[J]], list[R | Exception]], *, group_max: int) -> None:
        self._name = name
        self._work = work
        self._group_max = group_max
        self._asked: list[_Ask[J, R]] = []
        self._groups: queue.SimpleQueue[list[_Ask[J, R]] | None] = queue.SimpleQueue()
        self._closed = False
        # A daemon: a disk that hangs for ever keeps no process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def do(self, job: J) -> R:
        """Raises StorageError when the lane is closed, else whatever became of the job."""
        if self._closed:
            raise StorageError(f"{self._name} is closed")
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._send)
        done: asyncio.Future[R] = loop.create_future()
        self._asked.append(_Ask(job, done))
        return await done

    async def close(self) -> None:
        """Finish what was asked for. Idempotent."""
        if not self._closed:
            self._closed = True
            self._send()
            self._groups.put(None)
        await asyncio.to_thread(self._thread.join)

    def _send(self) -> None:
        if self._asked:
            self._groups.put(self._asked)
            self._asked = []

    # ----------------------------------------------------------------- in the thread

    def _run(self) -> None:
        open_ = True
        while open_:
            asks, open_ = self._take()
            for start in range(0, len(asks), self._group_max):
                self._do_group(asks[start : start + self._group_max])

    def _take(self) -> tuple[list[_Ask[J, R]], bool]:
        """Wait for a group, then take along what has gathered meanwhile; False when it was the last."""
        group = self._groups.get()
        asks: list[_Ask[J, R]] = []
        while group is not None:
            asks += group
            try:
                group = self._groups.get_nowait()
            except queue.Empty:
                return asks, True
        return asks, False

    def _do_group(self, asks: list[_Ask[J, R]]) -> None:
        wanted = [ask for ask in asks if not ask.done.cancelled()]
        if not wanted:
            return
        try:
            outcomes = self._work([ask.job for ask in wanted])
        except Exception as error:  # noqa: BLE001  (it belongs to those who asked; the thread goes on)
            outcomes = [error] * len(wanted)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            wanted[0].done.get_loop().call_soon_threadsafe(_tell, wanted, outcomes)


def _tell(asks: list[_Ask[J, R]], outcomes: list[R | Exception]) -> None:
    for ask, outcome in zip(asks, outcomes, strict=True):
        if ask.done.done():  # who asked has given up meanwhile
            continue
        if isinstance(outcome, Exception):
            ask.done.set_exception(outcome)
        else:
            ask.done.set_result(outcome)
