"""A rig whose coordinator challenges: a receipt promises a beacon, and beats bring what it draws."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from agent.core import wire
from agent.core.model import LeaseKey, Signed
from tests import builders
from tests.fakes.examiner import promise
from tests.stages.rig import Rig


class Court(Rig):
    """`challenges` and `judged` are what the answers to beats bring from now on."""

    def __init__(self) -> None:
        super().__init__()
        self.challenges: tuple[wire.Challenge, ...] = ()
        self.judged: list[Signed] = []
        coordinator = self.coordinator
        coordinator.answers[wire.Result] = lambda message: coordinator.receipts(message, beacon=promise())
        coordinator.answers[wire.Beat] = self._beaten

    def _beaten(self, beat: wire.Beat) -> wire.BeatAck:
        return wire.BeatAck(
            lease_ms=40_000,
            beat_s=10,
            renewed=beat.held,
            challenges=self.challenges,
            judged=tuple(self.judged[beat.judged :]),
        )

    async def did(self, task_id: str = "task-1", **offer: Any) -> LeaseKey:
        """A task, done and receipted."""
        offered = builders.offer(task_id, **offer)
        self.coordinator.offer(offered)
        await self.until(lambda: offered.key in self.outbox.papers)
        return offered.key

    async def beats(self, count: int = 1) -> wire.Beat:
        """Have the node beat, and take in what the answer brings; the last of these beats."""
        for _ in range(count):
            before = len(self.coordinator.sent(wire.Beat))
            self.coordinator.push(wire.Directed(directive=wire.Directive(kind="refingerprint")))
            beat: wire.Beat = await self.coordinator.saw(wire.Beat, before + 1)
            for _ in range(20):
                await asyncio.sleep(0)
        return beat

    def body(self, key: LeaseKey) -> wire.ResultBody:
        """What the node signed."""
        result = self.outbox.papers[key].result
        assert result is not None
        return msgspec.json.decode(result.payload, type=wire.ResultBody)

    @property
    def openings(self) -> list[wire.Opening]:
        return self.coordinator.sent(wire.Opening)

    @property
    def outcomes(self) -> dict[str, str]:
        """What is remembered, by challenge."""
        return {name: line.outcome.value for name, line in self.proofs.lines.items()}
