"""Eight ways in which a sandbox of bubblewrap is easily made wrong, each by its test."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from agent.core.errors import SandboxError
from agent.edges.sandbox.bubblewrap import Bubblewrap
from agent.edges.sandbox.confine import Confinement
from agent.edges.sandbox.mechanisms import Means
from agent.edges.sandbox.remedies import remedy_by_settings
from agent.ports import ExitKind, Limits
from tests.patience import within
from tests.sandboxes import as_ordinary_user, require_root, run, said_up, shell

pytestmark = pytest.mark.usefixtures("sandboxes")
SYSTEMD = Path(__file__).parents[3] / "systemd"


@pytest.fixture
def sandbox(tmp_path):
    return Bubblewrap(tmp_path)


def test_1_root_of_the_host_is_refused_as_the_user_of_a_sandbox():
    require_root()
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        with pytest.raises(SandboxError, match="root of this machine"):
            Confinement(Limits(), Means(), None, None).admit(process.pid)
        process.kill()


async def test_1_the_machines_settings_cannot_be_written(sandbox):
    files = "/proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger"
    end, stderr = await run(sandbox, f"for f in {files}; do (: >>$f) && exit 3; done; exit 0")
    assert end.code == 0, stderr


def test_2_the_agents_own_user_is_the_sandboxs_but_its_processes_are_out_of_reach(tmp_path_factory):
    require_root()
    directory = tmp_path_factory.mktemp("ordinary")

    async def user_and_reach():
        sandbox = Bubblewrap(directory)
        handle = await within(sandbox.start(shell("sleep 600", limits=Limits(stdout_bytes=9))))
        owner = Path(f"/proc/{handle.pid}").stat().st_uid
        handle.close()
        await within(handle.wait())
        script = f"kill -0 {os.getpid()} 2>/dev/null && exit 3; ls -d /proc/[0-9]* | wc -l >&2"
        end, stderr = await run(sandbox, script)
        return owner == os.geteuid(), end.code, int(stderr) < 9

    assert as_ordinary_user(user_and_reach) == (True, 0, True)


def test_3_the_agents_other_processes_do_not_count_among_the_sandboxs(tmp_path_factory):
    require_root()
    directory = tmp_path_factory.mktemp("ordinary")

    async def with_many_processes():
        crowd = [subprocess.Popen(["/bin/sleep", "600"]) for _ in range(20)]
        sandbox = Bubblewrap(directory, cgroup_root=Path("/nowhere"))  # so that RLIMIT_NPROC has to do
        end, stderr = await run(sandbox, "sleep 0 & sleep 0 & wait; echo fine >&2", limits=Limits(pids=8))
        for process in crowd:
            process.kill()
            process.wait()
        return end.code, stderr

    assert as_ordinary_user(with_many_processes) == (0, "fine\n")


async def test_4_the_device_directory_cannot_be_filled(sandbox):
    filling = "for d in /dev /dev/pts /run /; do (: >$d/file) 2>/dev/null && echo $d >&2; done"
    end, stderr = await run(sandbox, f"{filling}; mount | grep ' /dev ' | grep -q '[(,]ro[,)]'")
    assert (end.code, stderr) == (0, "")


async def test_5_the_first_process_tells_neither_environment_nor_paths_of_the_host(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_SECRET", "hidden-from-tasks")
    (tmp_path / "given").write_text("")
    script = "cat /proc/1/environ /proc/1/cmdline | tr '\\0' '\\n' >&2"
    mounts = ((tmp_path / "given", "/opt/given"),)
    _, stderr = await run(sandbox, script, ro_mounts=mounts, env={"TASK": "of-its-own"})
    assert "cat /proc/1/environ" in stderr
    for secret in ("hidden-from-tasks", str(tmp_path), "of-its-own", "--ro-bind"):
        assert secret not in stderr


async def test_6_a_graceful_stop_reaches_the_program_and_its_end_is_the_end_of_all(sandbox, shared):
    script = "trap 'exit 3' TERM; sleep 600 & echo ready >/sock/up; while :; do sleep 0.05; done"
    handle = await within(sandbox.start(shell(script, socket_dir=shared)))
    await said_up(shared)
    namespace = os.readlink(f"/proc/{handle.pid}/ns/pid")
    end = await within(handle.stop(20))
    assert (end.kind, end.code) == (ExitKind.STOPPED, 3)
    assert namespace not in set(namespaces())


def namespaces():
    for entry in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            yield os.readlink(entry)
        except OSError:
            continue


@pytest.mark.parametrize("limit", [10, 1 << 20])
async def test_7_a_program_that_goes_on_writing_after_its_bound_does_not_keep_it_from_ending(sandbox, limit):
    limits = Limits(stdout_bytes=limit)
    handle = await within(sandbox.start(shell("trap '' TERM PIPE; yes & yes >&2 & exec yes", limits=limits)))
    taken = 0
    async for piece in handle.stdout():
        taken += len(piece)
    end = await within(handle.wait())
    assert (taken, end.kind, end.code) == (limit, ExitKind.OUTPUT, signal.SIGKILL)
    handle.close()


def test_8_where_apparmor_forbids_user_namespaces_the_remedy_is_a_command_and_its_profile_is_shipped():
    remedy = remedy_by_settings({"kernel.apparmor_restrict_unprivileged_userns": "1"}, "/opt/bin/bwrap")
    assert "sed 's|@BWRAP@|/opt/bin/bwrap|' systemd/apparmor-gpu-agent-bwrap" in remedy
    profile = (SYSTEMD / "apparmor-gpu-agent-bwrap").read_text()
    assert "@BWRAP@ flags=(unconfined)" in profile
    assert "userns," in profile
