"""A deterministic event loop: virtual time, processes that can be frozen or killed, and a seeded choice of who runs.

Each simulated process is an `Owner`; a task belongs to the owner of its context, and so does all that it starts.
Among owners that are ready the seed chooses; within one owner callbacks keep the order that asyncio promises.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

THREAD_S = 0.05
"""What a thread takes at most for its work."""


class Owner:
    """One process. A killed one never runs again, not even its `finally`: as after SIGKILL."""

    def __init__(self, loop: SimLoop, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.thawed_at = float("-inf")
        self.ready: deque[asyncio.Handle] = deque()
        self.doom: int | None = None
        """Steps that it still has to live; None: it lives on."""
        self.dies: Callable[[], object] = self.kill
        self._loop = loop

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> SimTask:
        """Start a task that belongs to this process."""
        context = copy_context()
        context.run(OWNER.set, self)
        return self._loop.create_task(work, name=name, context=context)

    def call(self, work: Callable[..., object], *args: object) -> None:
        """Let this process run a callback soon."""
        context = copy_context()
        context.run(OWNER.set, self)
        self._loop.call_soon(work, *args, context=context)

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.ready.clear()
        self._loop.forget(self)

    def die_after(self, steps: int, dies: Callable[[], object]) -> None:
        """Call `dies` in the middle of whatever it does then: at any await."""
        self.doom, self.dies = steps, dies

    def freeze(self) -> None:
        """SIGSTOP, or the suspend of its machine: clocks go on, nothing runs."""
        self.frozen = True
        self._loop.forget(self)

    def thaw(self) -> None:
        """SIGCONT."""
        if self.frozen:
            self.frozen = False
            self.thawed_at = self._loop.time()
            if self.ready and self.alive:
                self._loop.runnable(self)


OWNER: ContextVar[Owner] = ContextVar("owner")


class SimFuture(asyncio.Future[Any]):
    """Hashes by number: sets of futures are iterated in the same order in every run."""

    def __init__(self, loop: SimLoop) -> None:
        super().__init__(loop=loop)
        self._number = loop.number()

    def __hash__(self) -> int:
        return self._number


class SimTask(asyncio.Task[Any]):
    """As SimFuture."""

    def __init__(
        self, work: Coroutine[Any, Any, Any], loop: SimLoop, name: str | None, context: Context | None
    ) -> None:
        self._number = loop.number()
        super().__init__(work, loop=loop, name=name, context=context)
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self._number


class SimLoop(asyncio.AbstractEventLoop):
    """`step` runs one callback; time jumps to the next timer when nobody is ready."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Owner]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._runnable: list[Owner] = []
        self._tasks: list[SimTask] = []
        self._purge_at = 1000
        self._closed = False
        self.root = Owner(self, "root")
        self.steps = 0
        self.faults: list[str] = []
        """Callbacks that raised."""

    # ------------------------------------------------------------------ the simulation's side

    def step(self) -> Owner | None:
        """Run one callback and return whose it was; None when nothing will ever happen again."""
        while True:
            while not self._runnable:
                if not self._advance():
                    return None
            owner = self._choose()
            handle = owner.ready.popleft()
            if not owner.ready:
                self._runnable.remove(owner)
            if handle._cancelled:
                continue
            self.steps += 1
            handle._run()
            if owner.doom is not None:
                self._age(owner)
            return owner

    def _age(self, owner: Owner) -> None:
        assert owner.doom is not None
        owner.doom -= 1
        if owner.doom <= 0:
            owner.doom = None
            self.root.call(owner.dies)

    def _choose(self) -> Owner:
        if self.root.ready:
            return self.root  # faults strike at once, or a doomed process would still finish what it does
        if len(self._runnable) == 1:
            return self._runnable[0]
        return self._runnable[self._chance.randrange(len(self._runnable))]

    def _advance(self) -> bool:
        """Time jumps to the next timer of a living process."""
        while self._timers:
            when, _, handle, owner = heapq.heappop(self._timers)
            if handle._cancelled or not owner.alive:
                continue
            self._now = max(self._now, when)
            self._enqueue(owner, handle)
            while self._timers and self._timers[0][0] <= self._now:
                _, _, handle, owner = heapq.heappop(self._timers)
                if not handle._cancelled:
                    self._enqueue(owner, handle)
            if self._runnable:
                return True
        return False

    def _enqueue(self, owner: Owner, handle: asyncio.Handle) -> None:
        if not owner.alive or self._closed:
            return
        if not owner.ready and not owner.frozen:
            self._runnable.append(owner)
        owner.ready.append(handle)

    def runnable(self, owner: Owner) -> None:
        """It may run again."""
        self._runnable.append(owner)

    def forget(self, owner: Owner) -> None:
        """It may not run."""
        if owner in self._runnable:
            self._runnable.remove(owner)

    def number(self) -> int:
        return next(self._numbers)

    def __enter__(self) -> SimLoop:
        self._before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closed = True
        for task in self._tasks:
            _close(task)
        self._tasks.clear()
        asyncio._set_running_loop(self._before)

    # ------------------------------------------------------------------ asyncio's side

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._enqueue(context.get(OWNER, self.root), handle)
        return handle

    call_soon_threadsafe = call_soon

    def run_in_executor(self, _executor: object, func: Callable[..., Any], *args: Any) -> SimFuture:
        """A thread of the process that asks: it is done in a moment, and never when that process dies before."""
        done = self.create_future()
        self.call_later(THREAD_S * self._chance.random(), self._in_thread, done, func, *args)
        return done

    @staticmethod
    def _in_thread(done: SimFuture, func: Callable[..., Any], *args: Any) -> None:
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001  (whoever waits for the thread gets it)
            if not done.done():
                done.set_exception(error)
                done.exception()
        else:
            if not done.done():
                done.set_result(result)

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        handle._scheduled = True
        heapq.heappush(self._timers, (when, next(self._order), handle, context.get(OWNER, self.root)))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Dropped when its time comes."""

    def create_future(self) -> SimFuture:
        return SimFuture(self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> SimTask:
        task = SimTask(coro, self, name, context)
        self._keep(task)
        return task

    def _keep(self, task: SimTask) -> None:
        """Killed tasks stay referenced: once collected, Python would run their `finally` in the middle of a run."""
        self._tasks.append(task)
        if len(self._tasks) > self._purge_at:
            self._tasks = [kept for kept in self._tasks if not kept.done()]
            self._purge_at = 1000 + 2 * len(self._tasks)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if isinstance(error := context.get("exception"), Exception) and "handle" in context:
            self.faults.append(f"{context['message']}: {error!r}")


def _close(task: SimTask) -> None:
    """Unwind what was left suspended, here and quietly rather than whenever the collector finds it."""
    for _ in range(10):  # a TaskGroup takes a second try: it waits for its children first
        try:
            task.get_coro().close()
        except BaseException:  # noqa: BLE001  (its process is dead: nobody is there to be told)
            continue
        return
