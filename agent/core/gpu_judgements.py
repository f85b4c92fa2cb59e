"""Judgements of `gpu-agent doctor` about the health of GPUs: a line for everything that is wrong with one."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.doctor import Finding, Severity
from agent.core.findings import Advice
from agent.core.findings import Finding as GpuFinding
from agent.core.findings import Severity as GpuSeverity
from agent.core.fingerprint import GpuStanding
from agent.core.health import HealthState

_REMEDIES = {
    Advice.WATCH: "Watch it; nothing is to be done yet",
    Advice.RESET: "Stop what uses it, then `sudo nvidia-smi --gpu-reset -i UUID`; reboot when that is refused",
    Advice.REBOOT: "Reboot this machine",
    Advice.INSPECT: "Look at its seating, power, cooling and cables; nvidia-smi -q and the kernel's log say more",
}
_PURPOSE = "tasks on this GPU"


def health(standings: Sequence[GpuStanding]) -> list[Finding]:
    """One line for each finding; one for all GPUs when there is none."""
    found = [_told(finding) for standing in standings for finding in standing.findings]
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
