"""Cgroups: found where they may be made, written exactly, removed, and only ours reaped."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from agent.edges.sandbox import cgroups
from agent.edges.sandbox.mechanisms import Means
from agent.ports import Limits, SandboxSpec
from tests.patience import within

MEANS = Means(group_memory_bytes=1 << 30, group_pids=64, group_cpus=1.5)
V1_FILES = {
    "memory": ("cgroup.procs", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"),
    "pids": ("cgroup.procs", "pids.max"),
    "cpu": ("cgroup.procs", "cpu.cfs_period_us", "cpu.cfs_quota_us"),
}
V2_FILES = ("cgroup.procs", "memory.max", "memory.swap.max", "memory.oom.group", "memory.events", "pids.max", "cpu.max")


@pytest.fixture
def v2(tmp_path):
    """A version 2 hierarchy with a service that systemd delegated."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io")
    service = tmp_path / "system.slice" / "gpu-agent.service"
    for directory in (service, service / "agent"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("")
        (directory / "cgroup.controllers").write_text("cpu memory pids\n")
        (directory / "cgroup.subtree_control").write_text("")
    return service


def find(root, membership, *delegated):
    return cgroups.find("gpu-agent-0123", root=root, membership=membership, delegated=lambda path: path in delegated)


def test_the_agents_own_subgroup_means_its_parent_is_ours(tmp_path, v2):
    found = find(tmp_path, "0::/system.slice/gpu-agent.service/agent\n", v2)
    assert (found.version, found.controllers) == (2, {"memory", "pids", "cpu"})
    assert (v2 / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


def test_on_an_older_systemd_the_agent_moves_itself_into_a_subgroup(tmp_path, v2):
    (v2 / "cgroup.procs").write_text("4711\n")
    assert find(tmp_path, "0::/system.slice/gpu-agent.service\n", v2).version == 2
    assert (v2 / "agent" / "cgroup.procs").read_text() == "4711"


def test_a_group_that_nobody_delegated_is_left_alone(tmp_path, v2):
    assert find(tmp_path, "0::/system.slice/gpu-agent.service\n") is None
    assert (v2 / "cgroup.subtree_control").read_text() == ""


def test_no_hierarchy_at_all_means_no_cgroups(tmp_path):
    assert find(tmp_path, "4:memory:/x\n0::/\n") is None
    assert find(tmp_path, "") is None


def test_version_2_limits_are_written_exactly(tmp_path):
    for name in V2_FILES:
        (tmp_path / name).write_text("")
    group = cgroups.Group(2, dict.fromkeys(("memory", "pids", "cpu"), tmp_path))
    group.limit(MEANS)
    group.admit(4711)
    assert {name: (tmp_path / name).read_text() for name in V2_FILES if name != "memory.events"} == {
        "cgroup.procs": "4711",
        "memory.max": "1073741824",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "64",
        "cpu.max": "150000 100000",
    }


def test_version_1_limits_are_written_exactly(tmp_path):
    places = {controller: tmp_path / controller for controller in V1_FILES}
    for controller, names in V1_FILES.items():
        places[controller].mkdir()
        for name in names:
            (places[controller] / name).write_text("")
    group = cgroups.Group(1, places)
    group.limit(MEANS)
    group.admit(4711)
    assert (places["memory"] / "memory.limit_in_bytes").read_text() == "1073741824"
    assert (places["memory"] / "memory.memsw.limit_in_bytes").read_text() == "1073741824"
    assert (places["pids"] / "pids.max").read_text() == "64"
    assert (places["cpu"] / "cpu.cfs_quota_us").read_text() == "150000"
    assert all((place / "cgroup.procs").read_text() == "4711" for place in places.values())


@pytest.mark.parametrize("version", [1, 2])
def test_a_kernel_that_does_not_account_swap_is_no_error(tmp_path, version):
    for name in ("memory.max", "memory.oom.group", "memory.limit_in_bytes"):
        (tmp_path / name).write_text("")
    cgroups.Group(version, {"memory": tmp_path}).limit(Means(group_memory_bytes=4096))
    assert sorted(path.name for path in tmp_path.iterdir() if path.read_text()) == (
        ["memory.limit_in_bytes"] if version == 1 else ["memory.max", "memory.oom.group"]
    )


def test_what_does_not_leave_is_killed_at_once_where_the_kernel_can(tmp_path):
    leaf = tmp_path / "leaf"
    leaf.mkdir()
    (leaf / "cgroup.procs").write_text("")
    os.mkfifo(leaf / "cgroup.kill")  # reading it waits for what is written
    group = cgroups.Group(2, {"pids": leaf})
    emptied = threading.Thread(target=lambda: empty_when_killed(leaf))
    emptied.start()
    group.remove()
    emptied.join()
    assert not leaf.exists()


def empty_when_killed(leaf):
    """What the kernel does: the group can go once its processes are dead."""
    if (leaf / "cgroup.kill").read_text() == "1":
        for file in leaf.iterdir():
            file.unlink()


def test_a_limit_file_that_the_kernel_lacks_is_an_error_and_never_created(tmp_path):
    with pytest.raises(FileNotFoundError):
        cgroups.Group(2, {"pids": tmp_path}).limit(MEANS)
    assert not (tmp_path / "pids.max").exists()


@pytest.mark.parametrize(
    ("version", "name", "text", "killed"),
    [
        (2, "memory.events", "low 0\nmax 7\noom 1\noom_kill 1\n", True),
        (2, "memory.events", "low 0\nmax 7\noom 0\noom_kill 0\n", False),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", False),
    ],
)
def test_a_kill_for_memory_is_read_from_the_group(tmp_path, version, name, text, killed):
    (tmp_path / name).write_text(text)
    assert cgroups.Group(version, {"memory": tmp_path}).out_of_memory() is killed


def test_a_name_cannot_lead_out_of_the_parent(tmp_path):
    found = cgroups.Cgroups(1, {"pids": tmp_path}, "gpu-agent-0123")
    group = found.create("../../org/model", Means())
    (place,) = group.places()
    assert place.parent == tmp_path
    assert place.is_dir()
    group.remove()


@pytest.fixture
def real(tmp_path):
    """The cgroups that can really be made here."""
    found = cgroups.find(f"gpu-agent-test{tmp_path.stat().st_ino}")
    if found is None:
        pytest.skip("no cgroup may be made on this machine")
    return found


def test_orphans_of_ours_are_killed_and_removed_and_others_left(real):
    group = real.create("orphan", Means(group_pids=8))
    other = cgroups.find("gpu-agent-other").create("other", Means(group_pids=8))
    orphan = subprocess.Popen(["/bin/sleep", "600"])
    group.admit(orphan.pid)
    assert real.reap() == len(group.places())
    assert orphan.wait(10) == -9
    assert real.reap() == 0
    assert all(place.is_dir() for place in other.places())
    other.remove()


@pytest.mark.usefixtures("real")
async def test_a_sandbox_leaves_no_cgroup_behind(sandbox):
    limits = Limits(memory_bytes=64 << 20, pids=9, cpus=0.5)
    handle = await within(sandbox.start(SandboxSpec(name="brief", argv=("/bin/sleep", "600"), limits=limits)))
    assert "-brief-" in Path(f"/proc/{handle.pid}/cgroup").read_text()
    handle.kill()
    await within(handle.wait())
    assert sandbox.reap_orphans() == 0


# ---------------------------------------------------------------- what a group has used


def test_version_2_tells_time_and_memory(tmp_path):
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    (tmp_path / "memory.peak").write_text("4096\n")
    group = cgroups.Group(2, {"memory": tmp_path, "pids": tmp_path})
    assert (group.cpu_s(), group.memory_peak_bytes()) == (1.5, 4096)


def test_version_1_tells_time_and_memory(tmp_path):
    (tmp_path / "cpuacct.usage").write_text("1500000000\n")
    (tmp_path / "memory.max_usage_in_bytes").write_text("4096\n")
    group = cgroups.Group(1, {"memory": tmp_path, "cpuacct": tmp_path})
    assert (group.cpu_s(), group.memory_peak_bytes()) == (1.5, 4096)


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_kernel_does_not_count_is_not_told(tmp_path, version):
    group = cgroups.Group(version, {"memory": tmp_path, "pids": tmp_path})
    assert (group.cpu_s(), group.memory_peak_bytes()) == (None, None)


def test_two_controllers_in_one_directory_make_one_group(tmp_path):
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct" / "cgroup.procs").write_text("")
    for name in ("cpu", "cpuacct"):
        (tmp_path / name).symlink_to("cpu,cpuacct")
    for name in ("cpu.cfs_period_us", "cpu.cfs_quota_us"):
        (tmp_path / "cpu,cpuacct" / name).write_text("")
    found = find(tmp_path, "3:cpu,cpuacct:/\n")
    assert found.controllers == {"cpu"}
    group = found.create("one", Means())
    assert len(group.places()) == 1
    group.remove()


def test_a_controller_that_only_counts_holds_no_limit(tmp_path):
    (tmp_path / "cpuacct").mkdir()
    (tmp_path / "cpuacct" / "cgroup.procs").write_text("")
    assert find(tmp_path, "3:cpuacct:/\n") is None
