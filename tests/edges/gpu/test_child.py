"""The probe's child as a process: how it is born, what of it is believed, and how it dies."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agent.core.gpu import GpuFault
from agent.edges.gpu.child import LINE_BYTES, worker_environment
from tests.patience import PATIENCE_S


def program(text: str) -> tuple[str, ...]:
    """A child that speaks to the probe in its own way; `ask()` waits for a question."""
    prelude = "import os, sys, time\nask = sys.stdin.buffer.readline\n"
    return (sys.executable, "-c", prelude + textwrap.dedent(text))


@pytest.mark.parametrize(
    ("babble", "told"),
    [
        ("ask(); print('hello', flush=True); ask()", "no report"),
        ("ask(); print('{\"gpus\": 3}', flush=True); ask()", "no report"),
        ("ask(); os.write(1, b'\\xff\\xfe\\n'); ask()", "no report"),
        (f"ask(); os.write(1, b'x' * {LINE_BYTES * 2}); ask()", "no report"),
        ("ask(); print('{}\\n' * 1000, flush=True); ask(); ask()", None),
        ("ask(); sys.exit(3)", "status 3"),
        ("ask(); os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("ask(); sys.exit('no module named \\x1b[31mpynvml')", "no module named pynvml"),
        ("os.close(1); ask(); ask()", "was killed"),
    ],
)
async def test_a_child_that_is_no_worker_is_a_fault_and_no_exception(probe_of, babble: str, told: str | None) -> None:
    probe = probe_of(command=program(babble))

    report = await probe.snapshot()
    if told is None:  # the first line was a report; the flood after it is met by the next question
        report = await probe.snapshot()

    assert report.fault is GpuFault.WORKER_CRASHED
    assert told is None or told in report.detail
    assert "\x1b" not in report.detail


async def test_a_process_that_cannot_be_started_is_a_fault_and_no_exception(probe_of) -> None:
    report = await probe_of(command=("/nonexistent/python",)).snapshot()

    assert report.fault is GpuFault.TRANSIENT
    assert "cannot be started" in report.detail


async def test_no_child_is_left_when_the_probe_closes(place, probe_of) -> None:
    probe = probe_of(place("geforce").library)
    await probe.snapshot()
    pid = probe.child_pid

    await probe.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_closing_during_a_hang_ends_the_snapshot_and_the_child(place, probe_of) -> None:
    driver = place("hang")
    probe = probe_of(driver.library)
    await probe.snapshot()
    pid = probe.child_pid
    driver.at(5)
    snapshot = asyncio.create_task(probe.snapshot())
    await asyncio.sleep(0)

    await probe.close()

    async with asyncio.timeout(PATIENCE_S):
        assert (await snapshot).fault is GpuFault.WORKER_CRASHED
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_hung_child_leaves_no_zombie(place, probe_of, until_opened) -> None:
    driver = place("hang")
    probe = probe_of(driver.library, deadline_s=0.4)
    await until_opened(probe)
    pid = probe.child_pid
    hung = os.pidfd_open(pid)
    driver.at(5)
    await probe.snapshot()
    driver.at(0)
    await until_opened(probe)

    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(hung, 0)
    os.close(hung)


FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def freezer():
    """A v1 freezer cgroup: what is frozen in it sleeps uninterruptibly and survives SIGKILL, as if inside a driver."""
    group = FREEZER / f"gpu-agent-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "freezer.state").read_text()
    except OSError:
        pytest.skip("needs root and a v1 freezer cgroup to make a process that does not die")
    yield group
    (group / "freezer.state").write_text("THAWED")
    group.rmdir()


async def test_a_child_that_does_not_die_is_waited_for_by_nobody_and_stays_the_only_one(
    place, probe_of, until_opened, freezer
) -> None:
    probe = probe_of(place("geforce").library, deadline_s=0.4)
    await until_opened(probe)
    stuck = probe.child_pid
    (freezer / "cgroup.procs").write_text(str(stuck))
    (freezer / "freezer.state").write_text("FROZEN")

    first = await probe.snapshot()
    second = await probe.snapshot()

    assert first.fault is second.fault is GpuFault.DRIVER_UNRESPONSIVE
    assert "cannot be killed" in second.detail
    assert probe.child_pid is None, "no second child beside one that is stuck"
    os.kill(stuck, 0)
    await probe.close()  # returns although the child is still there
    os.kill(stuck, 0)
    (freezer / "freezer.state").write_text("THAWED")
    async with asyncio.timeout(PATIENCE_S):
        while any(Path("/proc").glob(f"{stuck}/stat")):
            await asyncio.sleep(0.01)


def test_even_a_hung_child_dies_with_the_agent(place) -> None:
    driver = place("hang")
    agent_of = """
        import asyncio, os, pathlib, signal, sys
        from agent.edges.clock import SystemClock
        from agent.edges.gpu.probe import NvmlProbe

        async def main():
            probe = NvmlProbe(SystemClock(), library=pathlib.Path(sys.argv[1]), deadline_s=20)
            await probe.snapshot()
            print(probe.child_pid, flush=True)
            sys.stdin.readline()
            hung = asyncio.create_task(probe.snapshot())
            for _ in range(10):  # until the question is in the pipe, where the child finds it sooner or later
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(agent_of), str(driver.library)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        driver.at(5)
        parent.stdin.write(b"\n")
        parent.stdin.flush()

        ended, _, _ = select.select([child], [], [], 10)

    assert ended
    os.close(child)


def test_the_child_gets_nothing_of_the_agents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_AGENT_TOKEN", "secret")

    assert set(worker_environment()) <= {"PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH"}


def test_the_child_imports_little() -> None:
    listing = "import sys, agent.edges.gpu.__main__; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", listing], check=True, capture_output=True, text=True).stdout.split()

    assert not {"asyncio", "aiohttp", "cryptography", "ssl", "click", "structlog"} & set(found)
    assert not {"typing_extensions", "inspect", "ctypes.util", "subprocess", "tempfile"} & set(found)


def test_what_a_library_prints_does_not_reach_the_parents_pipe() -> None:
    noisy = """
        import os
        from agent.edges.gpu.worker import take_stdout

        replies = take_stdout()
        os.write(1, b"NVML: hello from the vendor")
        replies.write(b"a report")
        replies.flush()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(noisy)], check=True, capture_output=True)

    assert (done.stdout, done.stderr) == (b"a report", b"NVML: hello from the vendor")
