"""core.doctor and core.judgements, as tables."""

from __future__ import annotations

import pytest

from agent.core import gpu_judgements
from agent.core import judgements as judge
from agent.core.doctor import Finding, Severity, exit_status
from agent.core.fingerprint import Enforcement, SandboxFacts
from agent.core.gpu import Gpu, GpuFault, GpuReport, MigSlice, PciGpu

OK, WARN, FAIL = Severity.OK, Severity.WARN, Severity.FAIL
GIB = 1 << 30
CARD = Gpu(uuid="GPU-1", name="H200", index=0)
SLICED = GpuReport(
    gpus=(Gpu(uuid="GPU-1", name="A", index=0, mig=(MigSlice(uuid="MIG-1", name="1g", memory_total_bytes=1),)),)
)
HELD = PciGpu(address="0000:3b:00.0", driver="nvidia")
LOST = Gpu(uuid="GPU-2", name="H200", index=1, fault=GpuFault.GPU_LOST, detail="fell off the bus")
WORKS = SandboxFacts(backend="bubblewrap 0.11.0", usable=True)


def directory(fault: str, mode: int) -> Finding:
    return judge.directory("state.writable", "/x", purpose="p", fault=fault, mode=mode)


def key(present: bool, mode: int, fault: str = "") -> Finding:
    return judge.key_file("/x", present=present, fault=fault, mode=mode)


@pytest.mark.parametrize(
    ("finding", "severity"),
    [
        (judge.python((3, 10, 9)), FAIL),
        (judge.python((3, 11, 0)), OK),
        (judge.python((3, 14, 1)), OK),
        (judge.configuration("c.toml", ["pools[0].slots: must be at least 1"]), FAIL),
        (judge.configuration("", []), OK),
        (judge.pools(0), WARN),
        (judge.pools(1), OK),
        (directory("read-only file system", 0o700), FAIL),
        (directory("", 0o750), WARN),
        (directory("", 0o700), OK),
        (key(False, 0), OK),
        (key(True, 0o640), FAIL),
        (key(True, 0o600), OK),
        (key(False, 0, "permission denied"), FAIL),
        (judge.disk("/", 50 << 20), FAIL),
        (judge.disk("/", 500 << 20), WARN),
        (judge.disk("/", GIB), OK),
        (judge.retention(86_400), OK),
        (judge.retention(3600), WARN),
        (judge.clock(0.0), FAIL),
        (judge.clock(judge.BUILT_AT + 1.0), OK),
        (judge.clock_offset(None, "unreachable"), WARN),
        (judge.clock_offset(-4.0, ""), OK),
        (judge.clock_offset(-6.0, ""), WARN),
        (judge.clock_offset(301.0, ""), FAIL),
        (judge.open_files(1024), WARN),
        (judge.open_files(4096), OK),
        (judge.bwrap("", "not installed", "install it"), FAIL),
        (judge.bwrap("/usr/bin/bwrap (0.8.0)", "", ""), OK),
        (judge.user_namespaces("sysctl -w …"), WARN),
        (judge.user_namespaces(""), OK),
        (judge.cgroup(2, ("cpu", "memory", "pids", "io")), OK),
        (judge.cgroup(2, ("cpu",)), WARN),
        (judge.cgroup(0, ()), WARN),
        (judge.engine("main", actual="/usr/bin/llama-server", fault=""), OK),
        (judge.engine("main", actual="", fault="no llama-server"), FAIL),
        (judge.model("m", actual="/m.gguf", fault="", pinned=True), OK),
        (judge.model("m", actual="/m.gguf", fault="", pinned=False), WARN),
        (judge.model("m", actual="", fault="no such file", pinned=True), FAIL),
        (judge.coordinator("", ""), WARN),
        (judge.coordinator("https://c", ""), OK),
        (judge.coordinator("https://c", "refused"), FAIL),
        (judge.service("", "", ""), WARN),
        (judge.service("active", "running", "serving"), OK),
        (judge.service("inactive", "dead", ""), WARN),
        (judge.service("failed", "failed", ""), FAIL),
        (judge.broken("x", "KeyError"), FAIL),
        (gpu_judgements.driver(GpuReport(detail="off"), enabled=False, wanted=())[0], OK),
        (gpu_judgements.driver(GpuReport(fault=GpuFault.DRIVER_ABSENT), enabled=True, wanted=())[0], WARN),
        (gpu_judgements.driver(GpuReport(gpus=(CARD,)), enabled=True, wanted=("GPU-1",))[0], OK),
        (gpu_judgements.driver(GpuReport(gpus=(CARD,)), enabled=True, wanted=("GPU-9",))[0], FAIL),
        (gpu_judgements.driver(GpuReport(gpus=(CARD, LOST)), enabled=True, wanted=())[1], FAIL),
        (gpu_judgements.driver(SLICED, enabled=True, wanted=("MIG-1",))[0], OK),
        (
            gpu_judgements.driver(GpuReport(gpus=(CARD,), driver="1.0", installed="2.0"), enabled=True, wanted=())[1],
            WARN,
        ),
        (gpu_judgements.driver(GpuReport(gpus=(CARD,), bus=(HELD,)), enabled=True, wanted=())[1], WARN),
        (judge.container_engine("podman 4.3.1", "", ""), OK),
        (judge.container_engine("", "podman 3.4 is too old", ""), FAIL),
        (judge.sandbox(SandboxFacts(backend="none", usable=False, detail="no bwrap"))[0], FAIL),
        (judge.sandbox(WORKS)[0], OK),
        (judge.sandbox(WORKS)[1], OK),
    ],
    ids=lambda value: value.id if isinstance(value, Finding) else "",
)
def test_judgement(finding: Finding, severity: Severity) -> None:
    assert finding.severity is severity
    assert bool(finding.remedy) is (severity is not OK), "a remedy shows exactly where one is needed"
    assert finding.actual
    assert finding.required
    assert finding.purpose


def test_every_limit_that_nobody_enforces_is_named() -> None:
    limits = (
        Enforcement(limit="memory", enforced=False, how="no memory controller"),
        Enforcement(limit="pids", enforced=True, how="pids.max"),
        Enforcement(limit="cpu", enforced=False, how="no cpu controller"),
    )
    _, finding = judge.sandbox(SandboxFacts(backend="bubblewrap 0.11.0", usable=True, limits=limits))
    assert finding.severity is WARN
    assert finding.actual == "memory: no memory controller; cpu: no cpu controller"


@pytest.mark.parametrize(
    ("severities", "strict", "status"),
    [
        ([], False, 0),
        ([OK, WARN], False, 0),
        ([OK, WARN], True, 3),
        ([OK, OK], True, 0),
        ([WARN, FAIL], False, 1),
        ([WARN, FAIL], True, 1),
    ],
)
def test_the_exit_status_follows_the_worst_finding(severities: list[Severity], strict: bool, status: int) -> None:
    findings = [Finding(id="x", actual="a", required="r", severity=severity, purpose="p") for severity in severities]
    assert exit_status(findings, strict=strict) == status
