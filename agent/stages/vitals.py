"""Vitals: keeps every GPU's health from its readings, and lets the node take work only where a GPU is well."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from agent.core import events as ev
from agent.core.attest.cards import Card
from agent.core.attest.consistency import Doubt, doubts_of
from agent.core.errors import StorageError
from agent.core.findings import Finding
from agent.core.fingerprint import GpuStanding, standing_of
from agent.core.gpu import Gpu, GpuReport
from agent.core.health import Health, HealthState, Moved, explained
from agent.ports import Findings
from agent.stages.spine import Spine


class Vitals:
    """Owns the health of all GPUs."""

    def __init__(
        self, spine: Spine, health: Health, findings: Findings, *, period_s: float, cards: Sequence[Card] = ()
    ) -> None:
        """`cards`: what is known of models."""
        self._spine = spine
        self._health = health
        self._findings = findings
        self._period_s = period_s
        self._cards = cards
        self._doubts: dict[str, tuple[Doubt, ...]] = {}
        self._kept = health.lasting()
        self._log = structlog.get_logger("gpu")

    async def read(self, report: GpuReport) -> None:
        """Judge a snapshot. What lasts beyond this process is durable when this returns."""
        clock = self._spine.clock
        self._doubt(report)
        for moved in self._health.read(report, clock.monotonic(), clock.wall(), self._period_s):
            self._tell(moved)
        if (lasting := self._health.lasting()) != self._kept:
            await self._keep(lasting)

    def standings(self) -> tuple[GpuStanding, ...]:
        """For the fingerprint and the status."""
        return tuple(
            standing_of(uuid, health, self._doubts.get(uuid, ())) for uuid, health in self._health.gpus.items()
        )

    def _doubt(self, report: GpuReport) -> None:
        """A reading that failed tells nothing new."""
        if report.fault:
            return
        found = doubts_of(report, self._cards)
        for uuid in found:
            if (codes := [doubt.code for doubt in found[uuid]]) != [it.code for it in self._doubts.get(uuid, ())]:
                self._log.warning("gpu.doubted", uuid=uuid, doubts=codes, detail=found[uuid][0].evidence)
        self._doubts = found

    def last_xid(self, uuid: str) -> int | None:
        """The latest that was told of a GPU."""
        return self._health.gpus[uuid].last_xid if uuid in self._health.gpus else None

    def _tell(self, moved: Moved) -> None:
        gpu, health = moved.gpu, self._health.gpus[moved.gpu.uuid]
        tell = self._log.info if moved.after is HealthState.HEALTHY else self._log.warning
        detail = explained(health)
        tell(
            "gpu.moved",
            uuid=gpu.uuid,
            name=gpu.name,
            before=moved.before.value,
            after=moved.after.value,
            findings=[finding.code for finding in moved.findings] or None,
            detail=detail or None,
        )
        self._spine.feed(ev.GpuMoved(devices=_devices(gpu), state=moved.after, detail=detail))

    async def _keep(self, lasting: tuple[Finding, ...]) -> None:
        try:
            await asyncio.to_thread(self._findings.keep, lasting)
        except StorageError as error:  # the GPU stays out of work all the same; only a restart would forget why
            self._log.error("gpu.findings_unkept", detail=str(error))
            return
        self._kept = lasting


def _devices(gpu: Gpu) -> tuple[str, ...]:
    return (gpu.uuid, *(part.uuid for part in gpu.mig))
