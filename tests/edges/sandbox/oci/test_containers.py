"""What is particular to containers: they are not our children, and their engine remembers them."""

import asyncio
import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import psutil
import pytest

from agent.config import SandboxConfig
from agent.core.errors import SandboxError
from agent.edges.sandbox.build import build_sandbox
from agent.edges.sandbox.cgroups import ROOT, memberships
from agent.edges.sandbox.oci import words
from agent.edges.sandbox.oci.backend import Oci
from agent.edges.sandbox.oci.confine import ContainerConfinement
from agent.edges.sandbox.oci.facts import EngineName
from agent.edges.sandbox.oci.first import Told, recognise
from agent.ports import ExitKind, Limits
from tests.patience import within
from tests.sandboxes import FORKS, fork_agent, gone, make_backend, require_root, run, shell

KEEPER = "gpu-agent-keeper"
LONG = shell("sleep 600")


def remembered(backend, label):
    return backend.engine.command.ids(label)


def keeper_of(backend):
    (found,) = (p for p in psutil.process_iter(["cmdline"]) if {KEEPER, mark(backend)} <= set(p.info["cmdline"] or ()))
    return found


def client_of(backend):
    (found,) = (child for child in psutil.Process().children() if mark(backend) in " ".join(child.cmdline()))
    return found


def mark(backend):
    return f"{words.PROCESS_LABEL}={backend._run}"  # what tells this run's containers from others'


# ---------------------------------------------------------------- when the agent dies


async def test_a_dead_agents_containers_are_ended_from_outside(engine_name, tmp_path):
    async def agent(write):
        handle = await make_backend(engine_name, tmp_path).start(LONG)
        write(b"%d\n" % handle.pid)
        await handle.wait()

    agent_pid, out = fork_agent(agent)
    with os.fdopen(out, "rb", 0) as said:
        init_pid = int(said.readline())
    ended = asyncio.ensure_future(gone(init_pid))
    os.kill(agent_pid, signal.SIGKILL)
    os.waitpid(agent_pid, 0)
    await ended


async def test_a_program_does_not_run_when_the_agent_dies_before_it_gave_leave(engine_name, tmp_path, shared):
    async def agent(write):
        def die(_confinement, pid):
            write(b"%d\n" % pid)
            os.kill(os.getpid(), signal.SIGKILL)

        # In the forked agent alone: the moment between the container's start and the leave has no other door.
        ContainerConfinement.admit = die
        await make_backend(engine_name, tmp_path).start(shell("echo ran >/sock/ran; sleep 600", socket_dir=shared))

    agent_pid, out = fork_agent(agent)
    with os.fdopen(out, "rb", 0) as said:
        init_pid = int(said.readline())
        os.waitpid(agent_pid, 0)
    await gone(init_pid)
    assert not (shared / "ran").exists()
    make_backend(engine_name, tmp_path).reap_orphans()


async def test_the_next_start_removes_what_an_earlier_one_left_and_nobody_elses(containers, engine_name, tmp_path):
    other = make_backend(engine_name, tmp_path / "other")
    theirs, mine = await within(asyncio.gather(other.start(LONG), containers.start(LONG)))
    again = make_backend(engine_name, tmp_path)
    assert await asyncio.to_thread(again.reap_orphans) == 1
    end = await within(mine.wait())
    assert (end.kind, end.code) == (ExitKind.SIGNALLED, signal.SIGKILL)
    assert psutil.pid_exists(theirs.pid)
    theirs.kill()
    await within(theirs.wait())
    assert await asyncio.to_thread(other.reap_orphans) == 0


async def test_a_keeper_that_was_killed_is_replaced_at_the_next_start(containers):
    await run(containers, "true")
    first = keeper_of(containers)
    ended = asyncio.ensure_future(gone(first.pid))
    first.kill()
    await ended
    await run(containers, "true")
    assert keeper_of(containers).pid != first.pid


async def test_a_socket_directory_of_another_backend_is_taken_over(containers, tmp_path, shared):
    ours = make_backend("bubblewrap", tmp_path)
    for backend in (ours, containers, ours):
        end, stderr = await run(backend, "rm -f /sock/x && echo x >/sock/x", socket_dir=shared)
        assert end.code == 0, stderr


# ---------------------------------------------------------------- who the first process is


@pytest.fixture
def first_of_a_namespace():
    """pid of a process that is number 1 of a pid namespace, and of no container."""
    require_root()
    words = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as outer:
        outer.stdout.readline()
        (inner,) = psutil.Process(outer.pid).children()
        yield inner.pid
        outer.kill()


def test_the_first_process_of_a_strangers_namespace_is_not_taken_for_a_container(first_of_a_namespace):
    with pytest.raises(SandboxError, match="is not the container that its engine says"):
        recognise(Told("0123456789abcdef", first_of_a_namespace), accounted=True)
    os.close(recognise(Told("", first_of_a_namespace), accounted=False))  # but for its cgroup it would do


def test_a_process_that_leads_no_pid_namespace_is_not_taken_for_a_container():
    with pytest.raises(SandboxError, match="is not the container that its engine says"):
        recognise(Told("", os.getpid()), accounted=False)


def test_a_container_that_has_ended_is_not_recognised():
    with pytest.raises(SandboxError, match="ended while it was built"):
        recognise(Told("0123456789abcdef", 0), accounted=True)


async def test_the_engine_tells_which_process_it_is_and_its_cgroup_is_named_after_the_container(containers):
    handle = await within(containers.start(LONG))
    try:
        (container_id,) = await asyncio.to_thread(remembered, containers, mark(containers))
        os.close(recognise(Told(container_id, handle.pid), accounted=True))
        with pytest.raises(SandboxError, match="is not the container"):
            recognise(Told(container_id[::-1], handle.pid), accounted=True)
    finally:
        handle.kill()
        await within(handle.wait())


async def test_a_container_that_ignores_a_limit_is_handed_no_socket_directory(containers, shared):
    handle = await within(containers.start(LONG))
    try:
        before = shared.stat()
        asked = shell("true", socket_dir=shared, limits=Limits(memory_bytes=1 << 20))
        confinement = ContainerConfinement(containers.engine.command, "unused", asked, 1.0)
        with pytest.raises(SandboxError, match="is not enforced"):
            confinement.admit(handle.pid)
        assert (shared.stat().st_uid, shared.stat().st_mode) == (before.st_uid, before.st_mode)
    finally:
        handle.kill()
        await within(handle.wait())


# ---------------------------------------------------------------- what the engine does


async def test_limits_are_those_that_were_asked_for(containers):
    limits = Limits(pids=12, cpus=0.5, memory_bytes=64 << 20, wall_s=20)
    _, stderr = await run(containers, FORKS, limits=limits)
    assert "all" not in stderr
    handle = await within(containers.start(shell("sleep 600", limits=limits)))
    try:
        paths = memberships(Path(f"/proc/{handle.pid}/cgroup").read_text())
        if (ROOT / "cgroup.controllers").exists():
            quota, period = (ROOT / paths[""].lstrip("/") / "cpu.max").read_text().split()
        else:
            directory = ROOT / "cpu" / paths["cpu"].lstrip("/")
            quota, period = [(directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        assert int(quota) / int(period) == 0.5
    finally:
        handle.kill()
        end = await within(handle.wait())
    assert end.used.memory_peak_bytes > 0


async def test_nothing_of_a_finished_container_is_remembered(containers, tmp_path):
    handle = await within(
        containers.start(shell("echo out; exit 3", limits=Limits(stdout_bytes=100, out_bytes=1 << 16)))
    )
    assert (await within(handle.wait())).code == 3
    handle.close()
    assert not await asyncio.to_thread(remembered, containers, mark(containers))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "seccomp-oci.json"]


async def test_a_container_whose_engine_process_is_killed_is_ended(containers):
    handle = await within(containers.start(LONG))
    client_of(containers).kill()
    end = await within(handle.wait())
    assert (end.kind, end.code) == (ExitKind.SIGNALLED, signal.SIGKILL)
    assert not psutil.pid_exists(handle.pid)


async def test_an_engine_that_hangs_does_not_hold_up_the_end(engine_name, tmp_path):
    containers = Oci(tmp_path, EngineName(engine_name), engine_patience_s=0.2)
    handle = await within(containers.start(LONG))
    client_of(containers).suspend()
    handle.kill()
    assert (await within(handle.wait())).kind is ExitKind.STOPPED
    assert not psutil.pid_exists(handle.pid)


async def test_an_image_that_somebody_removed_is_made_again(containers):
    containers._image = "localhost/gpu-agent-sandbox:gone"  # other tests may be using the real one
    with pytest.raises(SandboxError, match="could not be built"):
        await containers.start(LONG)
    assert (await run(containers, "exit 4"))[0].code == 4


async def test_the_backend_of_the_configuration_is_made(containers, engine_name, tmp_path):
    made = build_sandbox(SandboxConfig(backend=engine_name), tmp_path)
    assert made.engine.facts.name == engine_name
    assert (await made.probe()).backend == made.engine.facts.backend


async def test_without_a_place_for_its_files_nothing_starts(engine_name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SandboxError, match="could not be prepared"):
        await make_backend(engine_name, tmp_path / "file" / "run").start(LONG)


async def test_an_engine_that_is_not_installed_is_named_with_the_remedy(engine_name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = await make_backend(engine_name, tmp_path).probe()
    assert (facts.backend, facts.usable) == (engine_name, False)
    assert f"{engine_name} is not installed" in facts.detail
    assert "apt-get install" in facts.detail


async def test_a_device_of_a_cdi_file_is_inside_and_no_other(containers):
    require_root()
    if not containers.engine.facts.cdi:
        pytest.skip(f"{containers.engine.facts.backend} takes no CDI names")
    node, described = Path("/dev/gpu-agent-test"), Path("/var/run/cdi/gpu-agent-test.json")
    described.parent.mkdir(parents=True, exist_ok=True)
    edits = {"deviceNodes": [{"path": str(node), "type": "c", "permissions": "rw"}]}
    devices = [{"name": "GPU-test", "containerEdits": edits}]
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # another /dev/null
        node.chmod(0o666)
        described.write_text(json.dumps({"cdiVersion": "0.3.0", "kind": "nvidia.com/gpu", "devices": devices}))
        _, with_gpu = await run(containers, f"echo x >{node} && echo written >&2", gpus=("GPU-test",))
        _, without = await run(containers, f"ls {node} >&2")
    finally:
        described.unlink(missing_ok=True)
        node.unlink(missing_ok=True)
    assert with_gpu == "written\n"
    assert "No such file" in without


async def test_all_that_starts_at_once_starts(containers, tmp_path):
    limits = Limits(stdout_bytes=100)
    handles = await within(asyncio.gather(*(containers.start(shell(f"echo {n}", limits=limits)) for n in range(4))))
    said = [b"".join([piece async for piece in handle.stdout()]) for handle in handles]
    assert said == [b"%d\n" % n for n in range(4)]
    for handle in handles:
        assert (await within(handle.wait())).code == 0
        handle.close()
