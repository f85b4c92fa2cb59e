"""The one way between stages: events go into the node core, its commands into the mailboxes of those who act.

The only place that touches `Node.handle`, so the core sees one event at a time and every change wakes who waits.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import structlog

from agent.core import events as ev
from agent.core.attempt import ImpossibleTransition
from agent.core.node import Node
from agent.core.watchdog import Tally
from agent.ports import Clock

_LEVEL = logging.getLogger("agent")
"""Tells whether debug lines are wanted. structlog makes a logger to find that out: 7 µs, six times a task."""


class Mailbox(asyncio.Queue[Any]):
    """Commands for one loop, which counts what it takes."""

    taken = 0

    def _get(self) -> Any:
        self.taken += 1
        return super()._get()

    def tally(self) -> Tally:
        """For the watchdog."""
        return Tally(self.qsize(), self.taken)


class Spine:
    """Carries events in and commands out."""

    def __init__(self, node: Node, clock: Clock) -> None:
        self.node = node
        self.clock = clock
        self._mailboxes: dict[type, Mailbox] = {}
        self._log = structlog.get_logger("node")
        self._changed = asyncio.Event()
        self._waking = False
        self.moved = clock.monotonic()
        """When the node last changed its state."""

    def mailbox(self, *kinds: type) -> Mailbox:
        """A queue that gets every command of these kinds from now on; each kind has one owner."""
        box = Mailbox()
        for kind in kinds:
            if kind in self._mailboxes:
                raise ValueError(f"{kind.__name__} has an owner already")
            self._mailboxes[kind] = box
        return box

    def tally(self, kind: type) -> Tally:
        """Of the mailbox that gets commands of this kind."""
        return self._mailboxes[kind].tally()

    def feed(self, event: ev.NodeEvent) -> None:
        """Let the core decide about `event`, and hand out what it orders."""
        for command in self._decided(event):
            self._hand_out(command)
        self.wake()

    def _decided(self, event: ev.NodeEvent) -> list[ev.Command]:
        """A transition that cannot be is a bug of ours: it ends that attempt, is told in full, and no other suffers."""
        now = self.clock.monotonic()
        try:
            return self.node.handle(event, now)
        except ImpossibleTransition as error:
            self._log.critical("attempt.impossible", detail=str(error), exc_info=True)
            return self.node.abandon(error.key, now)

    def wake(self) -> None:
        """Let everybody who waits for a change look again: once for all that happens in this turn of the event loop."""
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Return after the next event or `wake`. Ask the core first, then wait: no change is missed between."""
        await self._changed.wait()

    def _hand_out(self, command: ev.Command) -> None:
        match command:
            case ev.AttemptMoved(attempt=a):
                if _LEVEL.isEnabledFor(logging.DEBUG):
                    self._log.debug("attempt.moved", task=a.key.task_id, attempt=a.key.attempt, state=a.state.value)
            case ev.Closed(attempt=a):
                self._log.info(
                    "attempt.closed",
                    task=a.key.task_id,
                    attempt=a.key.attempt,
                    outcome=a.outcome.value if a.outcome else None,
                    reason=a.reason.value if a.reason else None,
                    detail=a.detail or None,
                    seconds=round(self.clock.monotonic() - a.leased_at, 3),
                )
            case ev.NodeMoved(before=before, after=after):
                self.moved = self.clock.monotonic()
                self._log.info("node.moved", before=before, after=after)
            case ev.BreakerMoved(pool=pool, state=state, detail=detail):
                self._log.warning("breaker.moved", pool=pool, state=state, detail=detail or None)
            case ev.DevicesPaused(devices=devices):
                self._log.info("gpu.paused", devices=devices)
            case ev.DevicesResumed(devices=devices):
                self._log.info("gpu.resumed", devices=devices)
            case _:
                self._mailboxes[type(command)].put_nowait(command)
