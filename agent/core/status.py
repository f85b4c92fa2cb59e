"""What the daemon shows of itself over the local socket: `gpu-agent status --json` prints exactly this.

Ages and remaining times are seconds from now on the daemon's monotonic clock; `*_at` are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.core.attempt import Attempt
from agent.core.attest.consistency import Doubt
from agent.core.attest.messages import Attestation
from agent.core.challenges import ProofTotals
from agent.core.findings import Advice, Finding
from agent.core.gpu import Gpu, GpuFault, GpuReport
from agent.core.health import HealthState
from agent.core.model import Outcome, Reason, State, Value
from agent.core.release import Released
from agent.core.surroundings import driver_change


class NodeStatus(Value):
    """The node itself."""

    id: str
    """Empty until the node is enrolled."""
    name: str
    state: str
    """As in `core.node.NodeState`."""
    version: str
    started_at: float
    since_s: float
    """How long the node has been in `state`."""
    paused: bool = False
    """Its owner paused it, whatever else was asked of it."""


class Gate(Value):
    """One reason why no work comes in now."""

    reason: Reason
    detail: str = ""
    """Plain words: what is missing and what the owner can do."""


class PoolStatus(Value):
    """One engine with one model on one device."""

    name: str
    model: str
    device: str
    engine: str
    ready: bool
    busy: int
    slots: int
    detail: str = ""
    determinism: str = ""
    """Its determinism class; `U` is unverifiable. Empty for programs, and for an engine that has not started yet."""
    validates: bool = False
    """It also checks what other nodes computed."""
    gates: tuple[Gate, ...] = ()
    """Everything that keeps this pool alone from taking work; empty while it takes some."""
    expected_bytes: int | None = None
    """Memory that its engine takes by its model's header, on its GPUs or on the processor; None where that does not
    tell."""
    measured_bytes: int | None = None
    """The most that it was seen to take, by the driver or, on the processor, by the kernel; None before that."""
    unloads: bool = False
    """Its engine is stopped while the owner wants the GPU's memory."""
    released: Released | None = None
    """How far that is; None while it is not."""


class GpuReadings(Value):
    """What one GPU told last; None for what it does not tell."""

    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    engines_bytes: int | None = None
    """Of that, what engines of this node take; None where the driver does not tell who takes how much."""
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    power_mw: int | None = None
    power_limit_mw: int | None = None


class GpuStatus(Value):
    """Whether one GPU may take work."""

    uuid: str
    name: str
    index: int
    state: HealthState
    findings: tuple[Finding, ...] = ()
    """What is wrong, the gravest first, with what its owner can do."""
    detail: str = ""
    """Why it takes no work though nothing is wrong with it."""
    last_xid: int | None = None
    """The latest Xid that was told of it since the agent started."""
    paused: bool = False
    """The owner paused it."""
    paused_s: float | None = None
    """Seconds until that ends by itself."""
    doubts: tuple[Doubt, ...] = ()
    """What is told of it and does not fit together."""
    attestation: Attestation | None = None
    """What the coordinator said last of whether it is one; None before it asked."""
    readings: GpuReadings | None = None
    """None while the driver does not list it."""


class AttemptStatus(Value):
    """One task that is being worked on."""

    task_id: str
    state: State
    pool: str
    age_s: float
    tokens: int = 0
    max_tokens: int = 0
    """The most that were asked for; 0 where a task has none."""
    deadline_s: float | None = None
    """Seconds left; negative when it has passed."""


class RecentAttempt(Value):
    """One attempt that ended lately."""

    task_id: str
    pool: str
    outcome: Outcome
    reason: Reason
    seconds: float
    detail: str = ""


class LinkStatus(Value):
    """The way to the coordinator."""

    url: str
    transport: str
    """`websocket` or `poll`; empty before the first session."""
    state: str
    last_answer_s: float | None = None
    """Age of the coordinator's last answer; None when it never answered."""
    clock_offset_s: float | None = None
    """Coordinator's clock minus ours. Shown only: no wall-clock time decides anything."""
    detail: str = ""
    """Last fault, in plain words."""


class SandboxStatus(Value):
    """What isolates the engines here."""

    backend: str
    usable: bool
    unenforced: tuple[str, ...] = ()
    """Limits that this machine cannot enforce; tasks that need one of them are declined."""
    detail: str = ""


class StorageStatus(Value):
    """What the node keeps on its disk."""

    transcripts_bytes: int = 0
    transcripts_quota_bytes: int = 0
    damage: tuple[str, ...] = ()
    """What was found damaged and could not all be kept, in words: the node is degraded until `gpu-agent resume`."""


class Ended(Value):
    """How many attempts ended in one way."""

    outcome: Outcome
    reason: Reason
    count: int


class Totals(Value):
    """Since the daemon started."""

    done: int = 0
    failed: int = 0
    handed_back: int = 0
    earned_micros: int = 0
    """Millionths of one unit of `currency`, receipts only."""
    currency: str = ""
    ended: tuple[Ended, ...] = ()
    """Every attempt that ended, by how and why."""


class Status(Value):
    """All of it, on one screen."""

    node: NodeStatus
    link: LinkStatus
    sandbox: SandboxStatus
    why_idle: tuple[Gate, ...] = ()
    """Every gate that fails, the most telling first; empty while work may come in."""
    pools: tuple[PoolStatus, ...] = ()
    gpus: tuple[GpuStatus, ...] = ()
    reboot: str = ""
    """Why this machine has to be rebooted; empty while it need not be."""
    attempts: tuple[AttemptStatus, ...] = ()
    recent: tuple[RecentAttempt, ...] = ()
    """The last attempts that ended, oldest first."""
    outbox_waiting: int = 0
    """Finished attempts whose receipt has not come yet."""
    totals: Totals = Totals()
    storage: StorageStatus = StorageStatus()
    proofs: ProofTotals = ProofTotals()
    schedule: str = ""
    """Whether the owner's schedule is open, until when and on which clock; empty where there is none."""
    page: str = ""
    """Where the owner's page is served; empty while it is not."""
    schema: int = 1


def headline(status: Status) -> str:
    """One line for the service manager: what the node does, or why it does nothing."""
    slots = sum(pool.slots for pool in status.pools)
    running = len(status.attempts)
    parts = [
        f"{status.node.state}: {running} task{'' if running == 1 else 's'}, {slots} slot{'' if slots == 1 else 's'}"
    ]
    if status.why_idle:
        parts.append("no new work: " + ", ".join(gate.reason.value for gate in status.why_idle))
    if status.reboot:
        parts.append(f"{'then ' if running else ''}reboot this machine: {status.reboot}")
    if status.storage.damage:
        parts.append("degraded: what was kept on disk is damaged")
    if status.outbox_waiting:
        parts.append(f"{status.outbox_waiting} waiting for a receipt")
    return "; ".join(parts)


def why_reboot(report: GpuReport, gpus: Iterable[GpuStatus]) -> str:
    """In a few words: what only a reboot mends, by what is told of the driver and of each GPU."""
    if report.installed and driver_change(report):
        return f"the driver was replaced by {report.installed}"
    if report.fault is GpuFault.DRIVER_MISMATCH:
        return "the driver was replaced (driver_mismatch)"
    found = (finding.code for gpu in gpus for finding in gpu.findings if finding.advice is Advice.REBOOT)
    return ", ".join(dict.fromkeys(found))


def readings(gpu: Gpu, used: Mapping[str, int]) -> GpuReadings:
    """What is shown of a reading; `used`: what engines take of each GPU and slice."""
    seen = gpu.sample
    told = seen.processes is not None and all(user.memory_bytes is not None for user in seen.users)
    parts = (gpu.uuid, *(part.uuid for part in gpu.mig))
    return GpuReadings(
        memory_total_bytes=gpu.memory_total_bytes,
        memory_used_bytes=seen.memory_used_bytes,
        engines_bytes=sum(used.get(uuid, 0) for uuid in parts) if told else None,
        utilisation_percent=seen.utilisation_percent,
        temperature_c=seen.temperature_c,
        power_mw=seen.power_mw,
        power_limit_mw=gpu.power_limit_mw,
    )


def recent(attempt: Attempt, outcome: Outcome, now: float) -> RecentAttempt:
    """What stays to be shown of an attempt that ended at monotonic `now`: no prompt, no output."""
    return RecentAttempt(
        task_id=attempt.key.task_id,
        pool=attempt.pool,
        outcome=outcome,
        reason=attempt.reason or Reason.INTERNAL,
        detail=attempt.detail,
        seconds=now - attempt.leased_at,
    )
