"""`gpu-agent doctor` about the health of GPUs."""

from __future__ import annotations

import pytest

from agent.core.doctor import Severity
from agent.core.findings import Advice, Finding
from agent.core.findings import Severity as GpuSeverity
from agent.core.fingerprint import GpuStanding
from agent.core.gpu_judgements import health
from agent.core.health import HealthState

WELL = GpuStanding(uuid="GPU-1", state=HealthState.HEALTHY)


def finding(severity: GpuSeverity, advice: Advice) -> Finding:
    return Finding(
        code="xid_79", severity=severity, gpu_uuid="GPU-2", evidence="fell off", advice=advice, source="kernel"
    )


def test_healthy_gpus_are_one_line_and_no_gpu_is_none() -> None:
    (line,) = health([WELL, WELL])
    assert (line.id, line.severity, line.actual) == ("gpu.health", Severity.OK, "2 GPUs healthy")
    assert health([]) == []


@pytest.mark.parametrize(
    ("severity", "level"), [(GpuSeverity.LOSES, Severity.FAIL), (GpuSeverity.DEGRADES, Severity.WARN)]
)
@pytest.mark.parametrize("advice", Advice)
def test_each_finding_is_a_line_with_something_to_do(severity: GpuSeverity, level: Severity, advice: Advice) -> None:
    sick = GpuStanding(uuid="GPU-2", state=HealthState.LOST, findings=(finding(severity, advice),) * 2)
    lines = health([WELL, sick])
    assert [(line.id, line.severity) for line in lines] == [("gpu.xid_79", level)] * 2
    assert "GPU-2: fell off" in lines[0].actual
    assert lines[0].remedy


def test_a_gpu_that_is_watched_after_a_loss_is_a_warning_with_its_reason() -> None:
    (line,) = health([GpuStanding(uuid="GPU-2", state=HealthState.DEGRADED, detail="watched for a minute")])
    assert (line.severity, "watched for a minute" in line.actual) == (Severity.WARN, True)
