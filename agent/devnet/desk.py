"""Where decisions become facts: writes first, then notices, then the reply."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, assert_never

from agent.core.errors import StorageError
from agent.core.wire import Chunk, Offers, Pull, Push, RefusalCode
from agent.devnet.blobs import Blobs
from agent.devnet.case_store import judged_case
from agent.devnet.core import leasing
from agent.devnet.core.book import Book
from agent.devnet.core.effects import Decision, Discard, Examine, Granted, Moved, Notice, PushTo, blobs_named
from agent.devnet.core.proofs.records import Case
from agent.devnet.core.rules import Instant, Refused
from agent.devnet.exhibits import Exhibits
from agent.devnet.judging_log import log_judgements
from agent.devnet.store import Store
from agent.devnet.streams import Streams

logger = logging.getLogger(__name__)

R = TypeVar("R")


class Clock(Protocol):
    """Time. Only `monotonic` decides anything."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class Desk:
    """The book, its store, and everybody who waits for something."""

    def __init__(self, book: Book, store: Store, blobs: Blobs, exhibits: Exhibits, clock: Clock) -> None:
        self.book = book
        self.store = store
        self.blobs = blobs
        self.exhibits = exhibits
        self.unexamined: asyncio.Queue[str] = asyncio.Queue()
        """Cases with an opening that nobody has looked at; for `Examiner`."""
        self.discarded: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        """Exhibits that a case named and does not any more; for `Tidier`."""
        self.streams = Streams()
        self.fault: StorageError | None = None
        """Set when the store failed: nothing is decided any more."""
        self._clock = clock
        self._closing = False
        self._pulls: dict[int, asyncio.Future[Offers]] = {}
        self._pull_ids = itertools.count(1)
        self._lines: dict[str, set[Callable[[Push], None]]] = {}

    def when(self) -> Instant:
        """Now. Raises Refused(BUSY) when nothing may be decided any more."""
        if self._closing:
            raise Refused(RefusalCode.BUSY, "the coordinator stops", retry_after_s=1.0)
        if self.fault:
            raise Refused(RefusalCode.BUSY, "the coordinator cannot write its state", retry_after_s=30.0)
        return Instant(self._clock.monotonic(), int(self._clock.wall()))

    def begin(self, decision: Decision[R]) -> asyncio.Future[None] | None:
        """Start to carry out a decision; the notices follow even if nobody waits for the reply any more."""
        if not decision.writes:
            self._notify(decision.notices)
            return None
        done = self.store.commit(decision.writes)
        done.add_done_callback(lambda done: self._written(done, decision))
        return done

    async def carry_out(self, decision: Decision[R]) -> R:
        """The reply, once everything that it says is durable. Raises Refused(BUSY).

        A decision without writes waits for those before it: a duplicate's receipt tells of the first one's commit.
        """
        if done := self.begin(decision) or self.store.latest:
            try:
                await asyncio.shield(done)
            except StorageError as error:
                raise Refused(RefusalCode.BUSY, "the coordinator cannot write its state") from error
        return decision.reply

    async def pull(self, node_id: str, message: Pull) -> Offers:
        """Offers, now or when there are some; empty after the wait. Whoever goes away leaves nothing behind."""
        pull_id = next(self._pull_ids)
        answer: asyncio.Future[Offers] = asyncio.get_running_loop().create_future()
        self._pulls[pull_id] = answer
        try:
            decision = leasing.pull(self.book, self.when(), node_id, pull_id, message)
            offers = await self.carry_out(decision)
            return offers if offers is not None else await answer
        finally:
            del self._pulls[pull_id]
            leasing.withdraw(self.book, pull_id)

    def chunk(self, node_id: str, chunk: Chunk) -> None:
        """Streamed text, shown to followers when the lease is live and dropped otherwise."""
        if self.book.held_by(node_id, chunk.key):
            self.streams.chunk(chunk)

    async def case_of(self, task_id: str) -> Case | None:
        """The case of a task's result, from memory while it is open."""
        if case_id := self.book.docket.of_task.get(task_id):
            return self.book.docket.cases[case_id]
        return await self.store.read(judged_case(task_id))

    def path_of(self, sha256: str) -> Path | None:
        """Where a blob or an exhibit lies; None when it is not here."""
        if self.blobs.size_of(sha256) is not None:
            return self.blobs.path_of(sha256)
        return self.exhibits.path_of(sha256) if self.book.docket.names(sha256) else None

    def connect(self, node_id: str, push: Callable[[Push], None]) -> None:
        """A node has a stream open."""
        self._lines.setdefault(node_id, set()).add(push)

    def disconnect(self, node_id: str, push: Callable[[Push], None]) -> None:
        """It is gone."""
        lines = self._lines[node_id]
        lines.discard(push)
        if not lines:
            del self._lines[node_id]

    def streaming(self, node_id: str) -> bool:
        """Whether a push reaches the node at once."""
        return node_id in self._lines

    def close(self) -> None:
        """Decide nothing any more, and answer every parked pull."""
        self._closing = True
        for pull_id, answer in self._pulls.items():
            leasing.withdraw(self.book, pull_id)
            if not answer.done():
                answer.set_result(Offers())

    def broken(self, fault: StorageError) -> None:
        """The store failed."""
        self.fault = fault
        logger.critical("coordinator.storage_failed: %s", fault)

    def _written(self, done: asyncio.Future[None], decision: Decision[R]) -> None:
        if done.cancelled() or done.exception():
            return
        for write in decision.writes:
            for sha256 in blobs_named(write):
                self.blobs.adopt(sha256)
        log_judgements(decision.writes)
        self._notify(decision.notices)

    def _notify(self, notices: tuple[Notice, ...]) -> None:
        for notice in notices:
            match notice:
                case Granted(pull_id=pull_id, offers=offers):
                    answer = self._pulls.get(pull_id)
                    if answer and not answer.done():
                        answer.set_result(offers)
                case PushTo(node_id=node_id, push=push):
                    for line in tuple(self._lines.get(node_id, ())):
                        line(push)
                case Moved():
                    self.streams.moved(notice)
                case Examine(case_id=case_id):
                    self.unexamined.put_nowait(case_id)
                case Discard(sha256s=sha256s):
                    self.discarded.put_nowait(sha256s)
                case _:
                    assert_never(notice)
