"""What the sandbox decides without touching anything: words, limits, ends, remedies."""

import signal
from pathlib import Path

import pytest

from agent.core.errors import SandboxError
from agent.edges.sandbox import host, profile
from agent.edges.sandbox.asked import check
from agent.edges.sandbox.exits import classify
from agent.edges.sandbox.mechanisms import Machine, Means, choose, enforcements
from agent.edges.sandbox.memory import used_bytes
from agent.edges.sandbox.places import Filled
from agent.edges.sandbox.probing import judge
from agent.edges.sandbox.remedies import remedy_by_settings, remedy_for
from agent.ports import ExitKind, Limits, SandboxSpec

BARE = Machine(kernel=(6, 1), threads=8)
GROUPS = Machine(cgroup_version=2, controllers=frozenset({"memory", "pids", "cpu"}), kernel=(6, 1), threads=8)
NOTHING = Filled(0, 0)
ALL = Limits(memory_bytes=1 << 30, pids=64, cpus=2.5)


# ---------------------------------------------------------------- the command line


def words(spec=None, **fields):
    given = {"mounts": (), "socket_dir": None, "devices": (), "fds": {}} | fields
    return profile.options(spec or SandboxSpec(name="t", argv=("/bin/true",)), **given)


def has(line, *sequence):
    return any(tuple(line[i : i + len(sequence)]) == sequence for i in range(len(line)))


@pytest.mark.parametrize(
    "sequence",
    [
        ("--unshare-user",), ("--unshare-pid",), ("--unshare-net",), ("--unshare-ipc",), ("--unshare-uts",),
        ("--disable-userns",), ("--die-with-parent",), ("--new-session",), ("--clearenv",), ("--cap-drop", "ALL"),
        ("--uid", "65534"), ("--gid", "65534"), ("--ro-bind", "/usr", "/usr"), ("--ro-bind", "/proc/sys", "/proc/sys"),
        ("--remount-ro", "/"), ("--remount-ro", "/dev"), ("--remount-ro", "/run"),
    ],
)  # fmt: skip
def test_the_profile_has_each_of_its_walls(sequence):
    assert has(words(), *sequence)


def test_mounts_sockets_devices_sizes_variables_and_descriptors_are_passed_on():
    spec = SandboxSpec(name="t", argv=("/x",), limits=Limits(tmp_bytes=4096), env={"A": "b"})
    line = words(
        spec,
        mounts=[(Path("/data/m"), "/models/m")],
        socket_dir=Path("/run/s"),
        devices=[Path("/dev/nvidia0")],
        fds={"seccomp": 7},
    )
    assert has(line, "--ro-bind", "/data/m", "/models/m")
    assert has(line, "--bind", "/run/s", "/sock")
    assert has(line, "--dev-bind", "/dev/nvidia0", "/dev/nvidia0")
    assert has(line, "--size", "4096", "--perms", "1777", "--tmpfs", "/tmp")
    assert has(line, "--setenv", "A", "b")
    assert has(line, "--seccomp", "7")


def test_everything_is_mounted_before_the_root_turns_read_only():
    line = words(mounts=[(Path("/data/m"), "/models/m")], devices=[Path("/dev/nvidia0")], socket_dir=Path("/s"))
    last_mount = max(i for i, word in enumerate(line) if word in ("--ro-bind", "--bind", "--dev-bind", "--tmpfs"))
    assert last_mount < line.index("--remount-ro")


@pytest.mark.parametrize("inside", ["/proc/x", "/dev", "/usr/lib/x", "/sock/x", "relative", "/", "/opt/../proc"])
def test_a_mount_over_the_sandboxs_own_places_is_refused(inside):
    with pytest.raises(SandboxError, match="mount point"):
        words(mounts=[(Path("/data"), inside)])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"argv": ()}, "names no program"),
        ({"argv": ("",)}, "names no program"),
        ({"argv": ("/x", "a\0b")}, "does not take"),
        ({"argv": ("/x", "\ud800")}, "does not take"),
        ({"env": {"A": "b\0--share-net"}}, "does not take"),
        ({"env": {"A\0": "b"}}, "does not take"),
        ({"env": {"": "b"}}, "name of a variable"),
        ({"env": {"A=B": "c"}}, "name of a variable"),
        ({"cwd": "/tmp\0/x"}, "does not take"),
        ({"ro_mounts": ((Path("/data"), "/opt\0/x"),)}, "does not take"),
        ({"limits": Limits(memory_bytes=0)}, "0 is no limit for memory_bytes"),
        ({"limits": Limits(pids=-1)}, "-1 is no limit for pids"),
        ({"limits": Limits(cpus=float("nan"))}, "nan is no limit for cpus"),
        ({"limits": Limits(wall_s=float("inf"))}, "inf is no limit for wall_s"),
        ({"limits": Limits(wall_s=0)}, "wall_s"),
        ({"limits": Limits(tmp_bytes=0)}, "tmp_bytes"),
        ({"limits": Limits(open_files=0)}, "open_files"),
        ({"limits": Limits(out_bytes=-1)}, "out_bytes"),
        ({"limits": Limits(file_bytes=1 << 64)}, "file_bytes"),
    ],
)
def test_what_means_nothing_is_refused_by_name(fields, words):
    with pytest.raises(SandboxError, match=words):
        check(SandboxSpec(**{"name": "t", "argv": ("/x",)} | fields))


def test_what_nobody_asks_for_may_be_none_of():
    check(SandboxSpec(name="t", argv=("/x",), limits=Limits(file_bytes=0, stderr_bytes=0, stdout_bytes=0, out_bytes=0)))


def test_the_stage_binds_by_number_and_drops_root():
    stage = profile.Stage()
    assert stage.place(Path("/root/m")) == Path("/tmp/0")
    assert stage.place(Path("/run/s"), writable=True) == Path("/tmp/1")
    tools = profile.Tools(setpriv=Path("/usr/bin/setpriv"), unshare=Path("/usr/bin/unshare"))
    line = stage.command(Path("/usr/bin/bwrap"), tools, 4711)
    assert has(line, "--ro-bind", "/root/m", "/tmp/0")
    assert has(line, "--bind", "/run/s", "/tmp/1")
    assert has(line, "/usr/bin/unshare", "--mount-proc", "--fork", "--", "/usr/bin/setpriv")
    assert has(line, "/usr/bin/setpriv", "--reuid", "4711", "--regid", "4711", "--clear-groups")


# ---------------------------------------------------------------- limits


def test_cgroups_hold_what_they_can():
    assert choose(ALL, GROUPS) == Means(group_memory_bytes=1 << 30, group_pids=64, group_cpus=2.5)


def test_without_cgroups_other_means_hold_the_limits():
    assert choose(ALL, BARE) == Means(watched_memory_bytes=1 << 30, own_pids=64, pinned_threads=2)


def test_no_limits_need_no_means():
    assert choose(Limits(), BARE) == Means()
    assert not choose(Limits(), GROUPS).needs_group


@pytest.mark.parametrize(
    ("limits", "machine", "words"),
    [
        (Limits(cpus=0.5), BARE, "0.5 cpus cannot be enforced"),
        (Limits(pids=5), Machine(kernel=(5, 10), threads=1), "Linux 5.10"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name_and_cause(limits, machine, words):
    with pytest.raises(SandboxError, match=words) as refused:
        choose(limits, machine)
    assert "Delegate" in refused.value.remedy


def test_results_that_the_agent_could_not_reach_are_refused():
    blind = Machine(kernel=(6, 1), threads=8, reaches_inside=False)
    assert choose(Limits(stdout_bytes=9), blind) == Means()
    assert not next(e for e in enforcements(blind) if e.limit == "output").enforced
    with pytest.raises(SandboxError, match="output cannot be enforced") as refused:
        choose(Limits(out_bytes=1), blind)
    assert "CAP_SYS_PTRACE" in refused.value.remedy


def test_capabilities_are_read(tmp_path):
    (tmp_path / "status").write_text("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000080000\n")
    assert host.has_capability(host.CAP_SYS_PTRACE, tmp_path / "status")
    assert not host.has_capability(host.CAP_SYS_PTRACE - 1, tmp_path / "status")


def test_every_limit_says_how_it_is_held():
    assert {e.how for e in enforcements(GROUPS) if e.limit in ("memory", "pids", "cpu")} == {"cgroup v2"}
    assert not next(e for e in enforcements(Machine(kernel=(5, 10))) if e.limit == "pids").enforced


def test_memory_counts_the_whole_tree_and_shared_pages_once(tmp_path):
    process(tmp_path, 1, children="2", anon_kib=100, pss_kib=60)
    process(tmp_path, 2, children="", anon_kib=100, pss_kib=60)
    assert used_bytes(1, 1 << 30, NOTHING, tmp_path) == 200 << 10
    assert used_bytes(1, 150 << 10, NOTHING, tmp_path) == 120 << 10


def test_what_lies_in_a_tmpfs_counts_once_though_it_is_mapped(tmp_path):
    process(tmp_path, 1, children="", anon_kib=100, pss_kib=60, shmem_kib=300)
    assert used_bytes(1, 1 << 30, NOTHING, tmp_path) == 400 << 10
    assert used_bytes(1, 1 << 30, Filled(200 << 10, 0), tmp_path) == 400 << 10
    assert used_bytes(1, 1 << 30, Filled(500 << 10, 0), tmp_path) == 600 << 10


def test_every_file_takes_memory_however_empty(tmp_path):
    process(tmp_path, 1, children="", anon_kib=100, pss_kib=60)
    assert used_bytes(1, 1 << 30, Filled(0, 5000), tmp_path) == (100 << 10) + 5000 * 1024


def test_memory_of_a_process_that_hides_its_maps_still_counts(tmp_path):
    process(tmp_path, 1, children="", anon_kib=100, pss_kib=None)
    assert used_bytes(1, 0, NOTHING, tmp_path) == 100 << 10
    assert used_bytes(99, 0, NOTHING, tmp_path) == 0


def process(proc, pid, *, children, anon_kib, pss_kib, shmem_kib=0):
    task = proc / str(pid) / "task" / str(pid)
    task.mkdir(parents=True)
    (task / "children").write_text(children)
    (proc / str(pid) / "status").write_text(
        f"Name:\tx\nVmRSS:\t999999 kB\nRssAnon:\t{anon_kib} kB\nRssFile:\t5000 kB\nRssShmem:\t{shmem_kib} kB\n"
    )
    if pss_kib is not None:
        (proc / str(pid) / "smaps_rollup").write_text(f"Pss:\t9999 kB\nPss_Anon:\t{pss_kib} kB\nPss_File:\t5000 kB\n")


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("code", "cause", "stderr", "kind", "number", "words"),
    [
        (0, None, "", ExitKind.EXITED, 0, "exit status 0"),
        (3, None, "bad model", ExitKind.EXITED, 3, "exit status 3"),
        (139, None, "", ExitKind.SIGNALLED, signal.SIGSEGV, "invalid memory access"),
        (132, None, "", ExitKind.SIGNALLED, signal.SIGILL, "lacks an instruction"),
        (128 + 40, None, "", ExitKind.SIGNALLED, 40, "signal 40"),
        (255, None, "", ExitKind.EXITED, 255, "exit status 255"),
        (-9, None, "", ExitKind.SIGNALLED, 9, "SIGKILL"),
        (1, None, "log\nbwrap: execvp x: No such file\n", ExitKind.EXITED, 1, "could not run it: bwrap: execvp"),
        (137, ExitKind.OUT_OF_MEMORY, "", ExitKind.OUT_OF_MEMORY, 9, "512 MiB"),
        (137, ExitKind.WALL_TIME, "", ExitKind.WALL_TIME, 9, "1.5 s"),
        (0, ExitKind.STOPPED, "", ExitKind.STOPPED, 0, "stopped by the agent"),
    ],
)
def test_each_end_has_its_word(code, cause, stderr, kind, number, words):
    end = classify(code, cause, Limits(memory_bytes=512 << 20, wall_s=1.5), stderr)
    assert (end.kind, end.code) == (kind, number)
    assert words in end.detail


# ---------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("uid_map", "user_id"),
    [
        ("         0          0 4294967295\n", host.SANDBOX_USER),
        ("         0     100000      65536\n", 65535),
        ("         0       1000          1\n         1     100000      65536\n", 65536),
    ],
)
def test_sandboxes_of_root_run_as_a_user_that_exists_in_this_container(uid_map, user_id):
    assert host.sandbox_user(uid_map) == user_id


def test_a_container_with_no_user_but_root_is_refused():
    with pytest.raises(SandboxError, match="no user but root"):
        host.sandbox_user("0 1000 1\n")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("echo bubblewrap 0.7.1", r"0\.8 or newer"),
        ("echo something else", "is not bubblewrap"),
        ("exit 1", "does not run"),
    ],
)
def test_an_unsuitable_bubblewrap_is_refused_with_the_remedy(tmp_path, said, words):
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\n{said}\n")
    fake.chmod(0o755)
    with pytest.raises(SandboxError, match=words) as refused:
        host.find_bwrap(str(fake))
    assert "apt-get install bubblewrap" in refused.value.remedy


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-18-amd64", (6, 1)), ("5.15.167.4-microsoft-standard-WSL2", (5, 15)), ("odd", (0, 0))],
)
def test_kernel_releases_are_read(release, version):
    assert host.kernel_version(release) == version


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernel.apparmor_restrict_unprivileged_userns": "1"}, "s|@BWRAP@|/usr/bin/bwrap|"),
        ({"kernel.unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone=1"),
        ({"user.max_user_namespaces": "0"}, "user.max_user_namespaces=65536"),
        ({"user.max_user_namespaces": "96365"}, ""),
        ({}, ""),
    ],
)
def test_a_setting_that_forbids_user_namespaces_has_its_exact_remedy(settings, words):
    remedy = remedy_by_settings(settings, "/usr/bin/bwrap")
    assert words in remedy
    assert bool(words) == bool(remedy)


def test_settings_are_read_where_the_kernel_has_them(tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "max_user_namespaces").write_text("0\n")
    assert host.userns_settings(tmp_path) == {"user.max_user_namespaces": "0"}


def test_known_complaints_of_bubblewrap_have_a_remedy():
    assert "AppArmor" in remedy_for("bwrap: setting up uid map: Permission denied")
    assert remedy_for("bwrap: something new") == ""


def test_the_apparmor_profile_that_the_remedy_loads_is_there():
    text = (Path(__file__).parents[3] / "systemd" / "apparmor-gpu-agent-bwrap").read_text()
    assert "profile gpu-agent-bwrap @BWRAP@ flags=(unconfined)" in text
    assert "userns," in text


def test_a_way_out_makes_the_sandbox_unusable():
    facts = judge(["open network", "done"], GROUPS, "bubblewrap 1.0")
    assert not facts.usable
    assert "network" in facts.detail
    assert not next(e for e in facts.limits if e.limit == "network").enforced
    assert judge(["done"], GROUPS, "bubblewrap 1.0").usable
