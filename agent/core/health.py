"""Whether each GPU may take work: findings in, a state out. Time and readings are passed in; nothing is read here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from agent.core.findings import HARD_SLOWDOWN, Advice, Finding, Severity, replaced, shown, told_by
from agent.core.gpu import Gpu, GpuEvent, GpuEventKind, GpuFault, GpuReport, bus_address
from agent.core.surroundings import driver_change
from agent.core.xids import Xid, judged

CLEAR_SAMPLES = 5
"""Good readings in a row after which a condition counts as over: a flickering one must not flap the capacity."""
PROBATION_S = 60.0
"""How long a GPU that was lost takes nothing after it is well again."""
HANG_S = 30.0
"""How long a driver may keep silent before its GPUs count as lost. One late reading on a busy machine is no hang, and
tasks that run may know nothing of it."""
STALE_PERIODS = 3
SLOWDOWN_WINDOW = 60
SLOWDOWN_SHARE = 0.25
"""Of the last readings, in which the hardware itself held the clocks down: more is no passing peak."""


class HealthState(StrEnum):
    """What a GPU may do."""

    UNKNOWN = "unknown"
    """No good reading yet, or none lately: what runs goes on, nothing new is taken."""
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """What runs may finish; nothing new is taken."""
    LOST = "lost"
    """What runs there is handed back at once."""


class Moment(NamedTuple):
    """When a reading was taken."""

    now: float
    """Monotonic; the only one that decides."""
    at: float
    """Unix seconds, for people."""
    boot_id: str


class Moved(NamedTuple):
    """A GPU changed its state."""

    gpu: Gpu
    before: HealthState
    after: HealthState
    findings: tuple[Finding, ...]
    """Why, the gravest first."""


class GpuHealth:
    """One GPU's findings and state."""

    def __init__(self, remembered: Iterable[Finding] = (), *, on_probation: bool = False) -> None:
        """`remembered` are lasting findings of this boot; `on_probation`: it was lost in an earlier one."""
        self.state = HealthState.UNKNOWN
        self._findings = {finding.code: finding for finding in remembered}
        self._clear: dict[str, int] = {}
        self._slowdowns: deque[bool] = deque(maxlen=SLOWDOWN_WINDOW)
        self._good_at: float | None = None
        self._probation_until: float | None = None
        self._was_lost = on_probation
        self._silent_since: float | None = None
        self._before: Gpu | None = None
        self.last_xid: int | None = None
        """The latest that was told of it, whatever it means."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The gravest first."""
        return tuple(sorted(self._findings.values(), key=lambda finding: finding.severity is not Severity.LOSES))

    def read(self, gpu: Gpu, told: Iterable[Finding], when: Moment, period_s: float) -> None:
        """Take in one reading and what events told since the one before."""
        seen = {finding.code: finding for finding in (*shown(gpu), *self._slowed(gpu))}
        if gpu.fault is None:
            self._good_at = when.now
            self._clear_what_is_over(gpu, seen)
        for finding in (*seen.values(), *told):
            if finding.code not in self._findings:
                self._findings[finding.code] = replace(finding, boot_id=when.boot_id, since_at=when.at)
            self._clear.pop(finding.code, None)
        self._hang(gpu, when.now)
        self._before = gpu if gpu.fault is None else self._before
        self.state = self._judge(when.now, period_s)

    def _hang(self, gpu: Gpu, now: float) -> None:
        """A driver that stays silent is a GPU that is lost."""
        if gpu.fault is not GpuFault.DRIVER_UNRESPONSIVE:
            self._silent_since = None
            return
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since >= HANG_S:
            code = "driver_unresponsive"
            self._findings[code] = replace(self._findings[code], severity=Severity.LOSES)

    def _clear_what_is_over(self, gpu: Gpu, seen: Mapping[str, Finding]) -> None:
        was_reset = self._was_reset(gpu)
        for code, finding in list(self._findings.items()):
            if code in seen:
                continue
            # The driver's own word wins: it asks for nothing (any more).
            over = not finding.lasts or gpu.condition.recovery_action == 0
            self._clear[code] = self._clear.get(code, 0) + 1 if over else 0
            if self._clear[code] >= CLEAR_SAMPLES or (was_reset and finding.lasts):
                del self._findings[code]
                del self._clear[code]

    def _was_reset(self, gpu: Gpu) -> bool:
        """Counters that start with the driver started again."""
        before = self._before.condition.energy_mj if self._before else None
        energy = gpu.condition.energy_mj
        return before is not None and energy is not None and energy < before

    def _slowed(self, gpu: Gpu) -> Iterable[Finding]:
        if gpu.fault is None and gpu.sample.throttle_reasons is not None:
            self._slowdowns.append(bool(gpu.sample.throttle_reasons & HARD_SLOWDOWN))
        slowed = sum(self._slowdowns)
        if slowed >= SLOWDOWN_WINDOW * SLOWDOWN_SHARE:
            evidence = f"the hardware held the clocks down in {slowed} of the last {len(self._slowdowns)} readings"
            yield Finding(
                code="slowdown",
                severity=Severity.DEGRADES,
                gpu_uuid=gpu.uuid,
                evidence=evidence,
                advice=Advice.INSPECT,
                source="nvml",
            )

    def _judge(self, now: float, period_s: float) -> HealthState:
        if any(finding.severity is Severity.LOSES for finding in self._findings.values()):
            self._was_lost, self._probation_until = True, None
            return HealthState.LOST
        if self._good_at is None or now - self._good_at > STALE_PERIODS * period_s:
            return HealthState.UNKNOWN
        if self._was_lost:
            self._was_lost, self._probation_until = False, now + PROBATION_S
        if self._probation_until is not None and now >= self._probation_until:
            self._probation_until = None
        if self._findings or self._probation_until is not None:
            return HealthState.DEGRADED
        return HealthState.HEALTHY

    @property
    def on_probation(self) -> bool:
        """Lost before, well since, and not yet long enough."""
        return self._probation_until is not None


class Health:
    """All GPUs of a node. A bad one never makes the others unusable."""

    def __init__(self, xids: Mapping[int, Xid], boot_id: str, remembered: Iterable[Finding] = ()) -> None:
        self._xids = xids
        self._boot_id = boot_id
        self.gpus: dict[str, GpuHealth] = {}
        known = list(remembered)
        for uuid in {finding.gpu_uuid for finding in known}:
            mine = [finding for finding in known if finding.gpu_uuid == uuid]
            here = [finding for finding in mine if finding.boot_id == boot_id]
            lost = any(finding.severity is Severity.LOSES for finding in mine)
            self.gpus[uuid] = GpuHealth(here, on_probation=lost and not here)

    def read(self, report: GpuReport, now: float, at: float, period_s: float) -> list[Moved]:
        """Take in a snapshot; returns what moved. `now` is monotonic, `at` Unix seconds for people."""
        when, driver = Moment(now, at, self._boot_id), driver_change(report)
        beside = {gpu.uuid: [replaced(gpu.uuid, driver)] if driver else [] for gpu in report.gpus}
        read = (self._read(gpu, report.events, beside[gpu.uuid], when, period_s) for gpu in report.gpus)
        return [moved for moved in read if moved is not None]

    def lasting(self) -> tuple[Finding, ...]:
        """To be remembered over a restart of the agent."""
        return tuple(finding for gpu in self.gpus.values() for finding in gpu.findings if finding.lasts)

    def _read(
        self, gpu: Gpu, events: Iterable[GpuEvent], beside: list[Finding], when: Moment, period_s: float
    ) -> Moved | None:
        health = self.gpus.setdefault(gpu.uuid, GpuHealth())
        before = health.state
        mine = [event for event in events if _is_of(event, gpu)]
        for event in mine:
            health.last_xid = event.code if event.kind is GpuEventKind.XID else health.last_xid
        told = [finding for event in mine if (finding := self._told(gpu, event)) is not None]
        health.read(gpu, [*told, *beside], when, period_s)
        return None if health.state is before else Moved(gpu, before, health.state, health.findings)

    def _told(self, gpu: Gpu, event: GpuEvent) -> Finding | None:
        xid = judged(self._xids, event.code) if event.kind is GpuEventKind.XID and event.code is not None else None
        return told_by(event, gpu.uuid, xid)


def explained(health: GpuHealth) -> str:
    """Why a GPU is not healthy, and what its owner can do, in one line."""
    if health.findings:
        worst = health.findings[0]
        return f"{worst.evidence} ({worst.code}); advice: {worst.advice.value}"
    if health.on_probation:
        return "well again, and watched for a minute before it takes work"
    return "" if health.state is HealthState.HEALTHY else "no good reading of it so far, or none lately"


def _is_of(event: GpuEvent, gpu: Gpu) -> bool:
    return event.gpu_uuid == gpu.uuid or _same_slot(event.pci_bus_id, gpu.pci_bus_id)


def _same_slot(one: str, other: str) -> bool:
    address = bus_address(one)
    return bool(address) and address == bus_address(other)
