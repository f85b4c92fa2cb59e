"""Judgements of `gpu-agent doctor` about GPUs: the driver, and a line for everything that is wrong with a card."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.attest.consistency import Doubt
from agent.core.doctor import Finding, Severity
from agent.core.findings import Advice
from agent.core.findings import Finding as GpuFinding
from agent.core.findings import Severity as GpuSeverity
from agent.core.fingerprint import GpuStanding
from agent.core.gpu import GpuReport
from agent.core.health import HealthState
from agent.core.judgements import judged
from agent.core.surroundings import driver_change, unlisted

_REMEDIES = {
    Advice.WATCH: "Watch it; nothing is to be done yet",
    Advice.RESET: "Stop what uses it, then `sudo nvidia-smi --gpu-reset -i UUID`; reboot when that is refused",
    Advice.REBOOT: "Reboot this machine",
    Advice.INSPECT: "Look at its seating, power, cooling and cables; nvidia-smi -q and the kernel's log say more",
}
_PURPOSE = "tasks on this GPU"


def driver(report: GpuReport, *, enabled: bool, wanted: Sequence[str]) -> list[Finding]:
    """The driver, then each GPU. A node without GPUs is fine unless a pool asks for one by its UUID (`wanted`)."""
    there = {gpu.uuid for gpu in report.gpus} | {part.uuid for gpu in report.gpus for part in gpu.mig}
    absent = [uuid for uuid in wanted if uuid not in there]
    level = Severity.FAIL if absent else Severity.WARN if enabled and (report.fault or not report.gpus) else Severity.OK
    first = judged(
        "gpu.driver",
        level,
        actual=report.detail or f"{len(report.gpus)} GPUs, driver {report.driver}, CUDA {report.cuda}",
        required=", ".join(absent)
        if absent
        else "GPUs, or none wanted"
        if enabled
        else "nothing (gpu.enabled is false)",
        purpose="engines on GPUs; without one, CPU pools still work",
        remedy='`gpu-agent gpus` shows what is there; pools with device = "cpu" need none',
    )
    broken_ones = [
        judged(
            f"gpu.{card.index}",
            Severity.FAIL,
            actual=f"{card.name} {card.uuid}: {card.detail or card.fault}",
            required="a GPU that can be used",
            purpose="pools on this GPU",
            remedy=card.detail,
        )
        for card in report.gpus
        if card.fault
    ]
    return [first, *_beside_driver(report), *broken_ones]


def _beside_driver(report: GpuReport) -> list[Finding]:
    """What the kernel and the disk say against the driver: nothing where all agree."""
    silent = ", ".join(card.address for card in unlisted(report))
    contained = "See `dmesg` for Xid lines and reboot; in a container that was given some of the GPUs this is fine"
    told = [
        ("gpu.version", driver_change(report), "one driver, running and installed", "Reboot"),
        ("gpu.unlisted", silent, "every card that the driver holds is listed by it", contained),
    ]
    return [
        judged(name, Severity.WARN, actual=actual, required=required, purpose="all GPUs of this machine", remedy=remedy)
        for name, actual, required, remedy in told
        if actual
    ]


def power_limit(report: GpuReport, wanted_w: int | None) -> list[Finding]:
    """Whether every GPU is held to its owner's limit, where he set one."""
    if wanted_w is None or not report.gpus:
        return []
    limits = {gpu.uuid: (gpu.power_limit_mw, gpu.power_limit_min_mw or 0) for gpu in report.gpus}
    above = {
        uuid: f"{uuid} may draw " + ("an unknown power" if now is None else f"{now / 1000:g} W")
        for uuid, (now, lowest) in limits.items()
        if now is None or now > max(wanted_w * 1000, lowest)
    }
    return [
        judged(
            "owner.power_limit",
            Severity.WARN if above else Severity.OK,
            actual=", ".join(above.values()) or f"no GPU may draw more than {wanted_w} W or the least that it takes",
            required=f"at most {wanted_w} W (owner.power_limit_w)",
            purpose="the power that you allow",
            remedy="`sudo systemctl enable gpu-agent-power`, then restart gpu-agent; journalctl -u gpu-agent-power",
        )
    ]


def health(standings: Sequence[GpuStanding]) -> list[Finding]:
    """One line for each finding; one for all GPUs when there is none."""
    found = [_told(finding) for standing in standings for finding in standing.findings]
    found += [_doubted(doubt, standing.uuid) for standing in standings for doubt in standing.doubts]
    unsure = [
        Finding(
            id="gpu.health",
            actual=f"{standing.uuid} is {standing.state.value}: {standing.detail or 'no good reading of it'}",
            required="healthy",
            severity=Severity.WARN,
            purpose=_PURPOSE,
            remedy="Ask again in a minute; `gpu-agent gpus` shows what is read",
        )
        for standing in standings
        if not standing.findings and standing.state is not HealthState.HEALTHY
    ]
    if standings and not found and not unsure:
        count = f"{len(standings)} GPU{'' if len(standings) == 1 else 's'} healthy"
        return [Finding(id="gpu.health", actual=count, required="healthy", severity=Severity.OK, purpose=_PURPOSE)]
    return found + unsure


def _told(finding: GpuFinding) -> Finding:
    return Finding(
        id=f"gpu.{finding.code}",
        actual=f"{finding.gpu_uuid}: {finding.evidence}",
        required="a GPU with which nothing is wrong",
        severity=Severity.FAIL if finding.severity is GpuSeverity.LOSES else Severity.WARN,
        purpose=_PURPOSE,
        remedy=_REMEDIES[finding.advice].replace("UUID", finding.gpu_uuid),
    )


def _doubted(doubt: Doubt, uuid: str) -> Finding:
    return Finding(
        id=f"gpu.{doubt.code}",
        actual=f"{uuid}: {doubt.evidence}",
        required="what NVML, the kernel and the bus tell of a GPU fits together",
        severity=Severity.WARN,
        purpose="being attested as a GPU",
        remedy=doubt.advice,
    )
