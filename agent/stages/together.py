"""Together: what many attempts ask in one turn of the event loop goes out as one message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from agent.core.errors import LinkError

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Collects questions and hands out the answers. `send` gives one answer a question, in their order."""

    def __init__(self, send: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._send = send
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    def ask(self, question: T) -> asyncio.Future[R]:
        """The answer, or a LinkError as `send` raises it. Nobody need wait; cancelling one leaves the others alone."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._go)
        self._waiting.append((question, answer))
        return answer

    def _go(self) -> None:
        batch, self._waiting = self._waiting, []
        task = asyncio.create_task(self._carry(batch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _carry(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            answers = await self._send([question for question, _ in batch])
        except LinkError as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error.again())
                    answer.exception()  # who asked may have lost interest: that is no mistake to be told
            return
        except Exception as error:  # noqa: BLE001  (a bug of ours: each who waits is told, and none waits for ever)
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()
            return
        for (_, answer), value in zip(batch, answers, strict=True):
            if not answer.done():
                answer.set_result(value)

    async def aclose(self) -> None:
        """Give up what is under way; whoever still waits is left waiting, and cancelled by its owner."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
