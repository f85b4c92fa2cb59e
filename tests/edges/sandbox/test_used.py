"""What a sandbox has used is told at its end, by cgroups and without."""

import signal

import pytest

from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.ports import ExitKind, Limits
from tests.patience import within
from tests.sandboxes import BOMB, run, said_up, shell

pytestmark = pytest.mark.usefixtures("sandboxes")
# Of POSIX sh, so that all the time is the shell's own, or a child's that it buries.
WORK = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
LIMITS = Limits(memory_bytes=256 << 20, pids=20, wall_s=60)


@pytest.fixture(params=["cgroup", "none"])
def backend(request, tmp_path):
    return Bubblewrap(tmp_path) if request.param == "cgroup" else Bubblewrap(tmp_path, cgroup_root=tmp_path)


async def test_the_processor_time_of_children_counts(tmp_path, sandbox):
    if "memory" not in sandbox.machine.controllers:
        pytest.skip("no cgroup may be made on this machine")
    alone, _ = await run(sandbox, "true", limits=LIMITS)
    end, _ = await run(sandbox, f"({WORK}) & wait", limits=LIMITS)
    assert end.used.cpu_s > alone.used.cpu_s
    assert end.used.wall_s > 0


async def test_the_processor_time_of_the_killed_counts(backend, shared):
    spec = shell(f"({WORK}; echo up >/sock/up; sleep 600) & wait", socket_dir=shared, limits=LIMITS)
    handle = await within(backend.start(spec))
    await said_up(shared)
    handle.kill()
    end = await within(handle.wait())
    alone, _ = await run(backend, "true", limits=LIMITS)
    assert (end.kind, end.code) == (ExitKind.STOPPED, signal.SIGKILL)
    assert end.used.cpu_s > (alone.used.cpu_s or 0.0)


async def test_the_peak_of_memory_is_told(backend):
    end = await within((await backend.start(BOMB)).wait())
    assert end.kind is ExitKind.OUT_OF_MEMORY
    # A cgroup's peak is its limit; a watched one is beyond.
    assert end.used.memory_peak_bytes > 100 << 20
