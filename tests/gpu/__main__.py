"""One call on a machine with a GPU: `make gpu`. Runs what needs a real card, and leaves a folder with

report.md     the machine, the readings, what was measured and how the tests ended
capture.ini   the driver's answers as a scenario, to be committed to tests/hosts
gpus.json     all readings and reasons (with real UUIDs: not for committing)
tests.txt     the tests in full
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from agent import __version__
from agent.core.gpu import GpuReport
from agent.edges import loader
from agent.edges.clock import SystemClock
from agent.edges.gpu.kmsg import KernelLog
from agent.edges.gpu.probe import NvmlProbe
from agent.edges.sandbox import cdi

SNAPSHOTS = 300
STEP_S = 900


def run(*command: str) -> tuple[int, str]:
    """Status and all output of a step; a step that fails or hangs does not end the others."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            command,
            check=False,
            text=True,
            timeout=STEP_S,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired:
        return 124, f"not done within {STEP_S} s"
    return done.returncode, done.stdout


async def measured() -> tuple[GpuReport, list[float]]:
    """The last report, and how long each snapshot through the child took, in milliseconds."""
    probe, took = NvmlProbe(SystemClock(), deadline_s=30.0), []
    try:
        report = await probe.settled()
        for _ in range(SNAPSHOTS if report.gpus else 0):
            began = time.perf_counter()
            report = await probe.snapshot()
            took.append((time.perf_counter() - began) * 1000)
    finally:
        await probe.close()
    return report, sorted(took)


def machine() -> Iterator[str]:
    """Facts that decide what works here."""
    log = KernelLog()
    cuda = loader.cached(loader.CACHE.read_bytes()).get("libcuda.so.1") if loader.CACHE.exists() else None
    nodes = sorted(str(node) for node in Path("/dev").glob("nvidia*"))
    files = [str(file) for folder in cdi.FOLDERS for file in folder.glob("*")]
    yield f"- gpu-agent {__version__}, Python {platform.python_version()}, {platform.platform()}, uid {os.geteuid()}"
    yield f"- device nodes: {', '.join(nodes) or 'none'}"
    yield f"- libcuda.so.1: {cuda or 'not known to the loader'}; CDI files: {', '.join(files) or 'none'}"
    yield f"- kernel log: {log.reason or 'readable'}; nvidia-smi: {shutil.which('nvidia-smi') or 'absent'}"
    log.close()


def page(report: GpuReport, took: list[float], steps: dict[str, tuple[int, str]]) -> str:
    """The report."""
    lines = [
        "# A real card",
        "",
        *machine(),
        f"- driver {report.driver}, CUDA {report.cuda}; {report.detail or 'no fault'}",
    ]
    lines += [f"- not told: {source}: {reason}" for source, reason in report.absent.items()]
    if took:
        p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
        lines.append(f"- snapshot of {len(report.gpus)} GPU(s) through the child: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    for name, (status, output) in steps.items():
        lines += ["", f"## {name} (status {status})", "", "```", output.rstrip()[-6000:], "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.gpu", description=__doc__)
    parser.add_argument("--write", type=Path, default=Path("gpu-report"), metavar="FOLDER")
    folder = parser.parse_args().write
    folder.mkdir(parents=True, exist_ok=True)
    report, took = asyncio.run(measured())
    agent = (sys.executable, "-m", "agent")
    tests = run(sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-v", "-rP", "-p", "no:cacheprovider")
    steps = {
        "gpu-agent gpus": run(*agent, "gpus"),
        "gpu-agent gpus --capture": run(*agent, "gpus", "--capture", str(folder / "capture.ini")),
        "tests": (tests[0], tests[1][-6000:]),
    }
    (folder / "gpus.json").write_text(run(*agent, "gpus", "--json")[1])
    (folder / "tests.txt").write_text(tests[1])
    (folder / "report.md").write_text(page(report, took, steps))
    print((folder / "report.md").read_text())
    return tests[0]


if __name__ == "__main__":
    sys.exit(main())
