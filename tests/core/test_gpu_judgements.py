"""`gpu-agent doctor` about the health of GPUs."""

from __future__ import annotations

import pytest

from agent.core.doctor import Severity
from agent.core.findings import Advice, Finding
from agent.core.findings import Severity as GpuSeverity
from agent.core.fingerprint import GpuStanding
from agent.core.gpu import Gpu, GpuFault, GpuReport
from agent.core.gpu_judgements import health, power_limit
from agent.core.health import HealthState
from agent.core.status import GpuStatus, why_reboot

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


def test_a_gpu_that_may_draw_more_than_its_owner_said_is_a_warning_with_what_to_do() -> None:
    def card(now_mw: int | None, lowest_mw: int | None = 100_000) -> GpuReport:
        return GpuReport(
            gpus=(Gpu(uuid="GPU-1", name="A", index=0, power_limit_mw=now_mw, power_limit_min_mw=lowest_mw),)
        )

    def level(report: GpuReport, wanted_w: int | None) -> list[Severity]:
        return [finding.severity for finding in power_limit(report, wanted_w)]

    assert level(card(450_000), None) == level(GpuReport(), 200) == []
    assert level(card(200_000), 200) == level(card(100_000), 50) == [Severity.OK]
    assert level(card(450_000), 200) == level(card(None), 200) == [Severity.WARN]
    (told,) = power_limit(card(450_000), 200)
    assert ("GPU-1 may draw 450 W" in told.actual, "gpu-agent-power" in told.remedy) == (True, True)


def test_what_only_a_reboot_mends_is_told_in_a_few_words() -> None:
    replaced = GpuReport(module="570.1", installed="580.2")
    assert why_reboot(replaced, ()) == "the driver was replaced by 580.2"
    mismatch = GpuReport(fault=GpuFault.DRIVER_MISMATCH, detail="reboot")
    assert why_reboot(mismatch, ()) == "the driver was replaced (driver_mismatch)"
    lost = GpuStatus(
        uuid="GPU-2",
        name="A",
        index=0,
        state=HealthState.LOST,
        findings=(finding(GpuSeverity.LOSES, Advice.REBOOT), finding(GpuSeverity.LOSES, Advice.RESET)),
    )
    assert why_reboot(GpuReport(), (lost, lost)) == "xid_79"
    assert why_reboot(GpuReport(module="570.1", installed="570.1"), ()) == ""
