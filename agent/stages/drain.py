"""Leave without losing a word: finish or hand back what runs, deliver what is finished, say goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from agent.core import events as ev
from agent.core import wire
from agent.core.errors import LinkError
from agent.core.intake import NodeState
from agent.core.model import Outcome, Reason, State
from agent.ports import Link
from agent.stages.deliver import Deliver
from agent.stages.pull import Pull
from agent.stages.spine import Spine

RECEIPT_GRACE_S = 5.0
"""When everything is durable in the outbox, its receipts are still waited for this long."""
HAND_BACK_GRACE_S = 5.0
"""For work that was told to stop: engine streams to close, hand-backs to be written."""
BYE_S = 2.0


class Drain:
    """The way out. `abort` may come at any moment of it."""

    def __init__(self, spine: Spine, pull: Pull, deliver: Deliver, link: Link) -> None:
        self._spine = spine
        self._pull = pull
        self._deliver = deliver
        self._link = link
        self._log = structlog.get_logger("drain")

    async def leave(self, limit_s: float, abort: asyncio.Event) -> bool:
        """Returns when nothing of ours is lost by exiting, at the latest `limit_s` and some grace from now.

        False when something was left that is neither handed back nor in the outbox: its lease runs out.
        """
        before = dict(self._spine.node.counts)
        self._log.info("drain.began", limit_s=limit_s, running=len(self._spine.node.attempts))
        self._spine.feed(ev.DrainAsked(limit_s=0.0 if abort.is_set() else limit_s, final=True))
        if not await self._durable(limit_s + HAND_BACK_GRACE_S, abort):
            self._spine.feed(ev.AbortAsked(reason=Reason.ABORTED))
            await self._durable(HAND_BACK_GRACE_S, asyncio.Event())
        await self._within(
            RECEIPT_GRACE_S, lambda: not self._deliver.unsent and self._spine.node.state is NodeState.DRAINED
        )
        await self._bye()
        return self._told(before)

    def _told(self, before: Mapping[Outcome, int]) -> bool:
        """Say what became of everything."""
        counts, unsent = self._spine.node.counts, self._deliver.unsent
        kept = (a for a in self._spine.node.attempts.values() if a.offer.idem_key not in unsent)
        abandoned = [attempt.key.task_id for attempt in kept]
        self._log.info(
            "drain.ended",
            finished=counts[Outcome.SUCCEEDED] - before[Outcome.SUCCEEDED],
            handed_back=counts[Outcome.HANDED_BACK] - before[Outcome.HANDED_BACK],
            undelivered=len(unsent),
            abandoned=abandoned or None,
        )
        return not abandoned

    async def _durable(self, limit_s: float, abort: asyncio.Event) -> bool:
        """Wait until nothing computes and every outcome is in the outbox; False when aborted or out of time."""
        finished = asyncio.ensure_future(self._within(limit_s, self._is_durable))
        aborted = asyncio.ensure_future(abort.wait())
        try:
            await asyncio.wait({finished, aborted}, return_when=asyncio.FIRST_COMPLETED)
            return finished.done() and finished.result()
        finally:
            finished.cancel()
            aborted.cancel()

    def _is_durable(self) -> bool:
        attempts = self._spine.node.attempts.values()
        stored = all(a.state is State.REPORTING and a.offer.idem_key in self._deliver.unsent for a in attempts)
        return stored and self._pull.in_flight == 0

    async def _within(self, limit_s: float, condition: Callable[[], bool]) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                while not condition():
                    await self._spine.changed()
        except TimeoutError:
            return False
        return True

    async def _bye(self) -> None:
        try:
            async with asyncio.timeout(BYE_S):
                await self._link.call(wire.Bye(reason="drained"))
        except (LinkError, TimeoutError) as error:
            self._log.debug("bye.unsaid", detail=str(error))  # the session ends by itself
