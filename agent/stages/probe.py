"""Probe: what this machine is, and what of it works now; keeps the fingerprint and the pools' facts current."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog

from agent.core import events as ev
from agent.core.fingerprint import Fingerprint, GpuStanding, Model, SandboxFacts
from agent.core.gpu import GpuPlace, GpuReport, place_of, still
from agent.core.watchdog import Pulse
from agent.ports import GpuProbe, HostProbe
from agent.stages.engines import Supervised
from agent.stages.herald import Herald
from agent.stages.spine import Spine
from agent.stages.vitals import Vitals


def fingerprint(
    host: HostProbe,
    report: GpuReport,
    pools: Iterable[Supervised],
    models: tuple[Model, ...],
    sandbox: SandboxFacts,
    standings: tuple[GpuStanding, ...] = (),
) -> Fingerprint:
    """All facts in one value. Readings that move every second are left out: they are no change of the node."""
    facts = host.facts()
    return Fingerprint(
        hostname=facts.hostname,
        cpu=facts.cpu,
        memory_bytes=facts.memory_bytes,
        gpus=tuple(still(gpu) for gpu in report.gpus),
        gpu_note=report.detail,
        standings=standings,
        pools=tuple(pool.facts for pool in pools),
        models=models,
        sandbox=sandbox,
        versions=msgspec.structs.replace(facts.versions, driver=report.driver, cuda=report.cuda),
        boot_id=facts.boot_id,
    )


def _nobody(_report: GpuReport) -> None:
    return None


class Probe:
    """Reads the GPUs every period and hears of every change of a pool."""

    def __init__(
        self,
        spine: Spine,
        herald: Herald,
        gpu: GpuProbe,
        host: HostProbe,
        pools: Mapping[str, Supervised],
        pulse: Pulse,
        *,
        models: tuple[Model, ...],
        sandbox: SandboxFacts,
        period_s: float,
        report: GpuReport,
        vitals: Vitals,
        seen: Callable[[GpuReport], None] = _nobody,
    ) -> None:
        """`seen` is told of every reading."""
        self._spine = spine
        self._herald = herald
        self._gpu = gpu
        self._host = host
        self._pools = pools
        self._pulse = pulse
        self._models = models
        self._sandbox = sandbox
        self._period_s = period_s
        self._log = structlog.get_logger("probe")
        self._seen = seen
        self._vitals = vitals
        self.report = report

    def place_of(self, uuid: str) -> GpuPlace | None:
        """Which device nodes a GPU or slice has, by the latest reading: it may appear, or move, after the start."""
        return place_of(self.report, uuid)

    def last_xid(self, uuid: str) -> int | None:
        """The latest Xid that was told of a GPU."""
        return self._vitals.last_xid(uuid)

    async def run(self) -> None:
        """Run until cancelled; the pools' engines run inside."""
        self._tell(GpuReport(), self.report)
        await self._vitals.read(self.report)
        async with asyncio.TaskGroup() as group:
            for pool in self._pools.values():
                group.create_task(pool.run(self._pool_watcher(pool)), name=f"pool {pool.facts.name}")
            await self._readings()

    def _pool_watcher(self, pool: Supervised) -> Callable[[], None]:
        def changed() -> None:
            self._spine.feed(ev.PoolChanged(pool=pool.facts))
            self._refresh()

        changed()
        return changed

    async def _readings(self) -> None:
        while True:
            self._pulse.beat("probe", self._spine.clock.monotonic())
            report = await self._gpu.snapshot()
            self._tell(self.report, report)
            self.report = report
            await self._vitals.read(report)
            self._seen(report)
            self._refresh()
            await self._spine.clock.sleep(self._period_s)

    def _tell(self, before: GpuReport, now: GpuReport) -> None:
        """Log what became different, once."""
        if (now.fault, now.detail) != (before.fault, before.detail):
            self._log.info("gpu.driver", fault=now.fault.value if now.fault else None, detail=now.detail or None)
        known = {gpu.uuid: gpu for gpu in before.gpus}
        for gpu in now.gpus:
            old = known.pop(gpu.uuid, None)
            if old is None or old.fault is not gpu.fault:
                fault = gpu.fault.value if gpu.fault else None
                self._log.info("gpu.seen", uuid=gpu.uuid, name=gpu.name, fault=fault, detail=gpu.detail or None)
        for uuid in known:
            self._log.warning("gpu.gone", uuid=uuid)

    def _refresh(self) -> None:
        current = fingerprint(
            self._host, self.report, self._pools.values(), self._models, self._sandbox, self._vitals.standings()
        )
        if current != self._herald.fingerprint:
            self._herald.fingerprint = current
            self._spine.wake()
