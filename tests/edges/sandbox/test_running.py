"""Programs in real sandboxes: how they end, what they may use, what stays behind."""

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from agent.core.errors import SandboxError
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.fds import readable
from agent.edges.sandbox.launch import launch
from agent.edges.sandbox.mechanisms import Means
from agent.ports import ExitKind, Limits, SandboxSpec
from tests.sandboxes import (
    BOMB,
    FORKS,
    drop_privileges,
    fork_agent,
    require_root,
    run,
    said_up,
    shell,
    within,
)

pytestmark = pytest.mark.usefixtures("sandboxes")


def children():
    """Every process below this one, dead or alive."""
    return set(psutil.Process().children(recursive=True))


# ---------------------------------------------------------------- how they end


async def test_the_exit_status_and_the_last_words_come_back(sandbox):
    end, stderr = await run(sandbox, "echo 'almost \033[31mthere' >&2; exit 7")
    assert (end.kind, end.code) == (ExitKind.EXITED, 7)
    assert stderr == "almost there\n"


@pytest.mark.parametrize(("number", "words"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "SIGKILL")])
async def test_a_crash_is_named(sandbox, number, words):
    end, _ = await run(sandbox, f"kill -{int(number)} $$")
    assert (end.kind, end.code) == (ExitKind.SIGNALLED, number)
    assert words in end.detail


async def test_a_program_that_does_not_exist_is_told_from_one_that_failed(sandbox):
    handle = await within(sandbox.start(SandboxSpec(name="test", argv=("/nowhere/engine",))))
    end = await within(handle.wait())
    assert "could not run it" in end.detail
    assert "/nowhere/engine" in end.detail


async def test_a_sandbox_that_cannot_be_built_is_an_error_with_the_cause(sandbox):
    await run(sandbox, "true")  # what is kept for all sandboxes is there from now on
    mounts, before = ((Path("/etc/hostname"), "/etc/ld.so.cache/below-a-file"),), children()
    with pytest.raises(SandboxError, match=r"could not be built: .*ld\.so\.cache"):
        await within(sandbox.start(shell("true", ro_mounts=mounts)))
    assert children() <= before


async def test_running_out_of_time_is_named(sandbox):
    end, _ = await run(sandbox, "sleep 600", limits=Limits(wall_s=0.1))
    assert end.kind is ExitKind.WALL_TIME


async def test_a_program_asked_to_stop_may_finish(sandbox, shared):
    script = "trap 'echo bye >&2; exit 3' TERM; echo ready >/sock/up; while :; do sleep 0.05; done"
    handle = await within(sandbox.start(shell(script, socket_dir=shared)))
    assert await said_up(shared) == "ready\n"
    end = await within(handle.stop(20))
    assert (end.kind, end.code) == (ExitKind.STOPPED, 3)
    assert handle.stderr_tail() == "bye\n"


async def test_a_program_that_ignores_the_request_is_killed(sandbox, shared):
    script = "trap '' TERM; echo ready >/sock/up; while :; do sleep 0.05; done"
    handle = await within(sandbox.start(shell(script, socket_dir=shared)))
    await said_up(shared)
    end = await within(handle.stop(0.1))
    assert (end.kind, end.code) == (ExitKind.STOPPED, signal.SIGKILL)


async def test_kill_ends_everything_and_may_be_repeated(sandbox):
    handle = await within(sandbox.start(shell("sleep 600 & sleep 600")))
    handle.kill()
    assert (await within(handle.wait())).kind is ExitKind.STOPPED
    handle.kill()
    assert (await within(handle.stop(0))).kind is ExitKind.STOPPED
    assert not Path(f"/proc/{handle.pid}").exists()


async def test_cancelling_one_who_waits_leaves_the_sandbox_alone(sandbox, shared):
    handle = await within(sandbox.start(shell("read line </sock/up; exit 5", socket_dir=shared)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.wait(), 0.01)
    await within(asyncio.to_thread((shared / "up").write_text, "go\n"))
    assert (await within(handle.wait())).code == 5


async def test_a_start_that_is_cancelled_leaves_nothing_behind(sandbox):
    await run(sandbox, "true")
    before = children()
    for turns in range(0, 12, 2):
        starting = asyncio.ensure_future(sandbox.start(shell("sleep 600")))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.result().kill()
            await within(starting.result().wait())
    assert children() <= before


async def test_what_a_program_leaves_running_dies_with_it(sandbox, shared):
    # The reader comes to the end of the fifo only when the daemon, which holds it open, is dead.
    os.mkfifo(shared / "began")
    (shared / "began").chmod(0o666)
    script = "(setsid sh -c 'echo daemon; : >/sock/began; exec sleep 600') >/sock/up 2>&1 & : </sock/began"
    handle = await within(sandbox.start(shell(script, socket_dir=shared)))
    assert await said_up(shared) == "daemon\n"
    assert (await within(handle.wait())).code == 0


async def test_a_flood_on_stderr_is_drained_and_only_its_tail_kept(sandbox):
    end, stderr = await run(
        sandbox, "yes | head -c 256M >&2; echo the end >&2", limits=Limits(stderr_bytes=4096, wall_s=60)
    )
    assert end.code == 0
    assert stderr.endswith("y\nthe end\n")
    assert len(stderr) <= 4096


async def test_a_flood_that_never_ends_does_not_keep_a_kill_from_ending(sandbox, shared):
    handle = await within(sandbox.start(shell("echo ready >/sock/up; exec yes >&2", socket_dir=shared)))
    await said_up(shared)
    handle.kill()
    assert (await within(handle.wait())).kind is ExitKind.STOPPED


def test_a_loop_that_ends_takes_its_sandboxes_along(tmp_path):
    async def forgetful():
        handle = await Bubblewrap(tmp_path).start(shell(f": {tmp_path}; sleep 600", limits=Limits(pids=9)))
        return os.pidfd_open(handle.pid)

    pidfd = asyncio.run(forgetful())
    asyncio.run(within(readable(pidfd)))
    os.close(pidfd)
    asyncio.run(within(nothing_is_left(tmp_path, str(tmp_path), ordinary=False)))
    assert Bubblewrap(tmp_path).reap_orphans() == 0


BOTH = pytest.mark.parametrize("drop", [False, True], ids=["root", "user"])


def become_the_agent(drop):
    if drop:
        drop_privileges()


@pytest.fixture
def open_to_all():
    """A directory that an ordinary user may write to, below nobody's private one."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@BOTH
async def test_a_program_does_not_run_when_the_agent_dies_before_its_limits_stand(tmp_path, open_to_all, drop):
    if drop:
        require_root()

    async def agent(write):
        become_the_agent(drop)
        backend = Bubblewrap(tmp_path)
        spec = shell(f": {tmp_path}; echo ran >/sock/ran; sleep 600", socket_dir=open_to_all)
        await launch(backend.recipe(spec, Means()), lambda _: os.kill(os.getpid(), signal.SIGKILL))

    agent_pid, out = fork_agent(agent)
    os.close(out)
    os.waitpid(agent_pid, 0)
    await within(nothing_is_left(tmp_path, str(tmp_path), ordinary=drop))
    assert not (open_to_all / "ran").exists()


@BOTH
@pytest.mark.parametrize("wait_ms", [0, 1, 2, 3, 5, 8])
async def test_an_agent_that_dies_while_a_sandbox_is_built_leaves_nothing(tmp_path, drop, wait_ms):
    if drop:
        require_root()

    async def agent(write):
        become_the_agent(drop)
        recipe = Bubblewrap(tmp_path).recipe(shell(f": {tmp_path}; sleep 600"), Means())
        starting = asyncio.ensure_future(launch(recipe, lambda _: None))
        await asyncio.sleep(0)  # long enough to start bubblewrap
        write(b"%d\n" % psutil.Process().children()[0].pid)
        await asyncio.wait({starting}, timeout=wait_ms / 1000)
        os.kill(os.getpid(), signal.SIGKILL)

    agent_pid, out = fork_agent(agent)
    with os.fdopen(out, "rb", 0) as said:
        monitor_pid = int(said.readline())
    os.waitpid(agent_pid, 0)
    await within(dead(monitor_pid))
    await within(nothing_is_left(tmp_path, str(tmp_path), ordinary=drop))


async def nothing_is_left(directory, mark, *, ordinary):
    """Until no process has `mark` in its command line. What an ordinary user's agent left, its next run ends."""
    while left := marked(mark):
        if ordinary:
            Bubblewrap(directory).reap_orphans()
        await asyncio.gather(*map(dead, left))


def marked(mark):
    return [p.pid for p in psutil.process_iter() if any(mark in word for word in words_of(p))]


def words_of(process):
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


async def dead(pid):
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        await readable(pidfd)
        os.close(pidfd)


@BOTH
async def test_a_dead_agent_leaves_no_sandbox(tmp_path, drop):
    if drop:
        require_root()

    async def agent(write):
        become_the_agent(drop)
        handle = await Bubblewrap(tmp_path).start(shell("sleep 600"))
        write(b"%d\n" % handle.pid)
        await handle.wait()

    agent_pid, out = fork_agent(agent)
    try:
        with os.fdopen(out, "rb", 0) as said:
            sandbox_pidfd = os.pidfd_open(int(said.readline()))
    finally:
        os.kill(agent_pid, signal.SIGKILL)
        os.waitpid(agent_pid, 0)
    await within(readable(sandbox_pidfd))
    os.close(sandbox_pidfd)
    Bubblewrap(tmp_path).reap_orphans()


# ---------------------------------------------------------------- what they may use


async def test_a_program_above_its_memory_is_killed_and_named(sandbox):
    end = await within((await sandbox.start(BOMB)).wait())
    assert end.kind is ExitKind.OUT_OF_MEMORY
    assert "128 MiB" in end.detail


async def test_memory_is_held_without_a_cgroup_too(tmp_path):
    backend = Bubblewrap(tmp_path, cgroup_root=tmp_path)
    assert "memory" not in backend.machine.controllers
    assert (await within((await backend.start(BOMB)).wait())).kind is ExitKind.OUT_OF_MEMORY


@pytest.mark.parametrize("cgroups", [True, False], ids=["cgroup", "rlimit"])
async def test_a_fork_bomb_meets_its_limit(tmp_path, cgroups):
    backend = Bubblewrap(tmp_path) if cgroups else Bubblewrap(tmp_path, cgroup_root=tmp_path)
    end, stderr = await run(backend, FORKS, limits=Limits(pids=12, wall_s=20))
    assert "all" not in stderr
    assert re.search(r"fork|Resource temporarily", stderr), (end, stderr)


async def test_a_program_that_outlives_the_kill_of_its_child_ended_by_itself(sandbox):
    script = "tail /dev/zero; echo child $? >&2; exit 0"
    end, stderr = await run(sandbox, script, limits=Limits(memory_bytes=64 << 20, wall_s=60))
    if "child" in stderr:  # where the whole group is killed, it does not outlive it
        assert (end.kind, end.code) == (ExitKind.EXITED, 0)
    else:
        assert end.kind is ExitKind.OUT_OF_MEMORY


async def test_two_sandboxes_do_not_share_one_allowance_of_processes(tmp_path):
    backend = Bubblewrap(tmp_path, cgroup_root=tmp_path)
    limits = Limits(pids=12)
    first = await within(
        backend.start(shell("sleep 60 & sleep 60 & sleep 60 & sleep 60 & sleep 60 & wait", limits=limits))
    )
    end, stderr = await run(backend, "for i in 1 2 3 4 5 6; do sleep 0 & done; wait; echo all >&2", limits=limits)
    first.kill()
    await within(first.wait())
    assert (end.code, stderr) == (0, "all\n")


async def test_a_program_pinned_in_place_of_a_quota_cannot_choose_other_cpus(tmp_path):
    backend = Bubblewrap(tmp_path, cgroup_root=tmp_path)
    end, stderr = await run(backend, "nproc >&2; taskset -p ffff $$ >&2; nproc >&2", limits=Limits(cpus=1))
    lines = stderr.splitlines()
    assert (lines[0], lines[-1]) == ("1", "1")
    assert end.code == 0


async def test_every_writable_place_is_of_fixed_size(sandbox):
    script = (
        "for d in /tmp /dev/shm; do head -c 100M /dev/zero >$d/x 2>/dev/null && echo $d >&2; rm -f $d/x; done; exit 0"
    )
    end, stderr = await run(sandbox, script, limits=Limits(tmp_bytes=32 << 20))
    assert (end.code, stderr) == (0, "")


async def test_a_file_and_the_number_of_open_files_are_bounded(sandbox):
    _, stderr = await run(
        sandbox,
        "ulimit -n >&2; head -c 2M /dev/zero >/tmp/x; echo $? >&2",
        limits=Limits(open_files=99, file_bytes=1 << 20),
    )
    assert stderr.splitlines()[0] == "99"
    assert stderr.splitlines()[-1] == str(128 + signal.SIGXFSZ)


async def test_a_limit_that_cannot_be_held_is_refused_before_anything_runs(tmp_path):
    backend = Bubblewrap(tmp_path, cgroup_root=tmp_path)
    with pytest.raises(SandboxError, match=r"0\.5 cpus cannot be enforced"):
        await backend.start(shell("true", limits=Limits(cpus=0.5)))


async def test_a_gpu_that_is_not_there_is_refused(sandbox):
    with pytest.raises(SandboxError, match=r"GPU-none.*`gpu-agent gpus` lists|takes no devices"):
        await sandbox.start(shell("true", gpus=("GPU-none",)))
