"""Advertise: the heartbeat that renews leases, tells what the node is, and brings what the coordinator asks."""

from __future__ import annotations

import asyncio
import contextlib
import random

import structlog

from agent.core import events as ev
from agent.core import wire
from agent.core.attempt import Event
from agent.core.errors import LinkError
from agent.core.fingerprint import Fingerprint
from agent.core.orders import Voice
from agent.core.text import plain
from agent.core.watchdog import Pulse
from agent.stages.attest import Attest
from agent.stages.calls import Caller
from agent.stages.hearing import Hearing
from agent.stages.herald import Herald
from agent.stages.spine import Spine

JITTER = 0.2
FULL_EVERY_S = 300.0


class Advertise:
    """One loop beats, one listens to pushes."""

    def __init__(
        self,
        spine: Spine,
        caller: Caller,
        herald: Herald,
        pulse: Pulse,
        rng: random.Random,
        *,
        drain_limit_s: float,
        hearing: Hearing | None = None,
        attest: Attest | None = None,
    ) -> None:
        """Where challenges go, and what comes of them; `attest`: those of GPUs. None where there are none."""
        self._spine = spine
        self._caller = caller
        self._herald = herald
        self._pulse = pulse
        self._rng = rng
        self._hearing = hearing
        self._attest = attest
        self.drain_limit_s = drain_limit_s
        """For a drain that the coordinator asks for; a reload may change it."""
        self._log = structlog.get_logger("advertise")
        self._told: Fingerprint | None = None
        self._told_at = 0.0
        self._told_state = ""

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beats(), name="beats")
            group.create_task(self._pushes(), name="pushes")

    async def _beats(self) -> None:
        failures = 0
        while True:
            self._pulse.beat("advertise", self._spine.clock.monotonic())
            try:
                await self._beat()
            except LinkError as error:
                self._log.warning("beat.failed", fault=error.fault.value, detail=str(error), failures=failures + 1)
                await self._caller.back_off(failures, error, cap_s=self._herald.beat_s)
                failures += 1
            else:
                failures = 0
                await self._until_next()

    async def _beat(self) -> None:
        clock, node = self._spine.clock, self._spine.node
        asked_at = clock.monotonic()
        fingerprint = self._news(asked_at)
        gates = node.gates(asked_at)
        beat = wire.Beat(
            held=node.held(),
            load=node.loads(),
            state=node.state.value,
            reason=gates[0].reason.value if gates else "",
            fingerprint=fingerprint,
            judged=self._hearing.judged if self._hearing else 0,
        )
        ack = await self._caller.ask(beat, wire.BeatAck)
        if fingerprint is not None:
            self._told, self._told_at = fingerprint, asked_at
        self._told_state = beat.state
        self._herald.obey(ack.beat_s)
        self._spine.feed(
            ev.BeatAcked(
                asked_at=asked_at,
                lease_ms=ack.lease_ms,
                renewed=ack.renewed,
                lost=ack.lost,
                cancelled=ack.cancelled,
            )
        )
        if self._attest:
            self._attest.asked(ack.matrix)
        for directive in ack.directives:
            self._directed(directive)
        if self._hearing is not None:
            self._hearing.heard(ack)

    def _news(self, now: float) -> Fingerprint | None:
        """The fingerprint when it changed since it was told, or five minutes are over."""
        current = self._herald.fingerprint
        if current != self._told or now - self._told_at >= FULL_EVERY_S:
            return current
        return None

    async def _until_next(self) -> None:
        """Wait a jittered beat; a change of state or of the fingerprint is told at once."""
        wait_s = self._herald.beat_s * (1 + JITTER * (2 * self._rng.random() - 1))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._spine.node.state.value == self._told_state and self._herald.fingerprint == self._told:
                    await self._spine.changed()

    async def _pushes(self) -> None:
        async for push in self._caller.link.pushes():
            match push:
                case wire.Cancel(key=key, reason=reason):
                    self._log.info("task.cancelled", task=key.task_id, reason=reason.value)
                    self._spine.feed(ev.Happened(key=key, event=Event.CANCELLED, reason=reason))
                case wire.Directed(directive=directive):
                    self._directed(directive)
                case wire.Challenge() if self._hearing is not None:
                    self._hearing.challenged((push,))

    def _directed(self, directive: wire.Directive) -> None:
        self._log.info("directive", kind=directive.kind, detail=directive.detail or None)
        match directive.kind:
            case "drain":
                self._spine.feed(ev.DrainAsked(limit_s=self.drain_limit_s, by=Voice.COORDINATOR))
            case "pause":
                self._spine.feed(ev.PauseAsked(why=plain(directive.detail, 200), by=Voice.COORDINATOR))
            case "resume":
                self._spine.feed(ev.ResumeAsked(by=Voice.COORDINATOR))
            case "refingerprint":
                self._told = None
                self._spine.wake()
            case _:
                self._log.warning("directive.unknown", kind=directive.kind)
