"""What engines say of themselves, what follows from it, and what they are told. On answers of real engines."""

import csv
import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import SandboxError
from agent.edges.sandbox.oci import image, words
from agent.edges.sandbox.oci.cgroup import Places, Remains, places, read, require_held
from agent.edges.sandbox.oci.command import Command, complaint
from agent.edges.sandbox.oci.facts import (
    EngineName,
    choose_runtime,
    enforcements,
    parse_docker,
    parse_podman,
    require,
)
from agent.edges.sandbox.oci.first import Told, ask
from agent.edges.sandbox.oci.policy import all_but, for_libseccomp
from agent.edges.sandbox.seccomp import load_policy
from agent.ports import Limits, SandboxSpec

ENGINES = Path(__file__).with_name("engines")
POLICY = load_policy()
TOLD = for_libseccomp(POLICY)
NONE = frozenset()


def said(name, **changes):
    document = json.loads((ENGINES / f"{name}.json").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[last] = value
    return json.dumps(document)


ROOT = parse_podman(said("podman-root-v1"))
ROOTLESS = parse_podman(said("podman-rootless-v1"))
DOCKER = parse_docker(said("docker-v1"))


# ---------------------------------------------------------------- facts


def test_podman_as_root_holds_every_limit():
    assert (ROOT.backend, ROOT.rootless, ROOT.cgroup_version) == ("podman 4.3.1", False, 1)
    require(Limits(memory_bytes=1, pids=1, cpus=0.5), ROOT)
    assert all(limit.enforced for limit in enforcements(ROOT))


@pytest.mark.parametrize("limits", [Limits(memory_bytes=1 << 30), Limits(pids=9), Limits(cpus=1)])
def test_podman_without_root_on_cgroup_v1_would_ignore_limits_and_is_refused_with_the_reason(limits):
    with pytest.raises(SandboxError, match=r"cannot be enforced: podman without root on cgroup v1 ignores .*cgroup v2"):
        require(limits, ROOTLESS)
    assert {limit.limit for limit in enforcements(ROOTLESS) if not limit.enforced} == {"memory", "pids", "cpu"}


def test_podman_without_root_on_cgroup_v2_holds_what_was_delegated():
    delegated = said("podman-rootless-v1", host__cgroupVersion="v2", host__cgroupControllers=["memory", "pids"])
    facts = parse_podman(delegated)
    require(Limits(memory_bytes=1, pids=1), facts)
    with pytest.raises(SandboxError, match=r"limit of cpu cannot .*Delegate=cpu"):
        require(Limits(cpus=1), facts)


def test_docker_says_which_limits_it_sets():
    assert (DOCKER.backend, DOCKER.cdi, DOCKER.remapped) == ("docker 20.10.24+dfsg1", False, False)
    require(Limits(memory_bytes=1, pids=1, cpus=1), DOCKER)
    with pytest.raises(SandboxError, match="limit of pids"):
        require(Limits(pids=1), parse_docker(said("docker-v1", PidsLimit=False)))


def test_docker_takes_cdi_names_from_version_25():
    assert parse_docker(said("docker-v1", ServerVersion="25.0.3")).cdi
    assert not parse_docker(said("docker-v1", ServerVersion="28.0.0", CDISpecDirs=[])).cdi


@pytest.mark.parametrize(
    ("parse", "answer", "words"),
    [
        (parse_podman, said("podman-root-v1", version__Version="3.4.4"), "podman 3.4.4 is too old"),
        (parse_docker, said("docker-v1", ServerVersion="19.03.1"), "docker 19.03.1 is too old"),
        (parse_docker, said("docker-v1", ServerErrors=["Cannot connect"]), "no daemon: Cannot connect"),
        (parse_podman, "command not found", "says nothing of itself"),
        (parse_docker, "[]", "says nothing of itself"),
    ],
)
def test_an_engine_that_cannot_be_used_is_refused_with_the_reason(parse, answer, words):
    with pytest.raises(SandboxError, match=words):
        parse(answer)


# ---------------------------------------------------------------- runtimes


def test_on_cgroup_v1_podman_is_told_to_take_runc():
    assert choose_runtime("auto", ROOT, frozenset({"runc", "crun"})) == "runc"
    with pytest.raises(SandboxError, match="runc is needed, which is missing"):
        choose_runtime("auto", ROOT, frozenset({"crun"}))


def test_elsewhere_the_engine_chooses():
    version_2 = parse_podman(said("podman-root-v1", host__cgroupVersion="v2"))
    assert choose_runtime("auto", version_2, NONE) is None
    assert choose_runtime("auto", DOCKER, NONE) is None


def test_a_runtime_that_is_not_there_is_refused():
    assert choose_runtime("crun", ROOT, frozenset({"crun"})) == "crun"
    with pytest.raises(SandboxError, match="podman has no runtime crun"):
        choose_runtime("crun", ROOT, frozenset({"runc"}))
    with pytest.raises(SandboxError, match="docker has no runtime crun"):
        choose_runtime("crun", DOCKER, frozenset({"crun"}))  # dockerd knows its own


# ---------------------------------------------------------------- the system call policy


def rules(policy, name):
    return [rule for rule in policy["syscalls"] if name in rule["names"]]


def fits(condition, args):
    value = args[condition["index"]]
    if condition["op"] == "SCMP_CMP_MASKED_EQ":
        return value & condition["value"] == condition["valueTwo"]
    assert condition["op"] == "SCMP_CMP_EQ"
    return value == condition["value"]


def stated(name, args):
    """Whether our policy, read in order, allows a call."""
    for rule in rules(POLICY, name):
        if all(fits(condition, args) for condition in rule.get("args", ())):
            return rule["action"] == "SCMP_ACT_ALLOW"
    return False


def libseccomp(name, args):
    """Whether libseccomp allows a call: a rule without conditions replaces the others of its call."""
    mine = rules(TOLD, name)
    mine = [rule for rule in mine if not rule.get("args")] or mine
    actions = {rule["action"] for rule in mine if all(fits(c, args) for c in rule.get("args", ()))}
    assert len(actions) <= 1
    return actions == {"SCMP_ACT_ALLOW"}


SPECIAL = sorted({name for rule in POLICY["syscalls"] if rule.get("args") for name in rule["names"]})
VALUES = sorted({c["value"] for rule in POLICY["syscalls"] for c in rule.get("args", ())})
NEAR = st.builds(lambda value, bit: (value ^ 1 << bit) & 0xFFFFFFFF, st.sampled_from(VALUES), st.integers(0, 31))
WORD = st.one_of(st.sampled_from(VALUES), NEAR, st.integers(0, 20), st.integers(0, 0xFFFFFFFF))


@given(st.sampled_from(SPECIAL), st.tuples(*[WORD] * 6))
def test_libseccomp_gives_the_verdict_that_the_policy_states(name, args):
    assert libseccomp(name, args) == stated(name, args)


def test_calls_without_conditions_keep_their_verdicts():
    names = {name for rule in POLICY["syscalls"] for name in rule["names"]} - set(SPECIAL)
    for name in names:
        (mine,) = rules(TOLD, name)
        assert (mine["action"], mine.get("errnoRet")) == (
            rules(POLICY, name)[0]["action"],
            rules(POLICY, name)[0].get("errnoRet"),
        )


@given(st.sets(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=5), st.integers(0, 0xFFFFFFFF))
def test_every_word_but_the_given_ones_fits_exactly_one_pair(values, word):
    pairs = list(all_but(values))
    for tried in (word, *values):
        assert sum(tried & mask == value for mask, value in pairs) == (tried not in values)


@pytest.mark.parametrize(
    "syscalls",
    [
        [{"names": ["x"], "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_GT"}], "action": "SCMP_ACT_ERRNO"}],
        [
            {"names": ["x"], "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}], "action": "SCMP_ACT_ALLOW"},
            {"names": ["x"], "args": [{"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}], "action": "SCMP_ACT_ERRNO"},
        ],
    ],
)
def test_a_policy_that_libseccomp_would_misread_is_an_error(syscalls):
    last = {"names": ["x"], "action": "SCMP_ACT_ALLOW"}
    with pytest.raises(ValueError, match="rules of x"):
        for_libseccomp({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [*syscalls, last]})


# ---------------------------------------------------------------- words


def container(**fields):
    parts = {
        "name": "c", "labels": {"gpu-agent": "tag"}, "image": "i", "seccomp": Path("/p.json"),
        "empty": Path("/empty"), "mark": "mark",
        "id_file": Path("/c.id"), "pid_file": Path("/c.pid"),
        "mounts": (), "most_pids": 1000,
    }  # fmt: skip
    return words.Container(**(parts | fields))


def run(facts=ROOT, spec=None, **fields):
    return words.run(spec or SandboxSpec(name="s", argv=("/bin/true",)), container(**fields), facts)


def after(option, told):
    return [told[at + 1] for at, word in enumerate(told) if word == option]


@pytest.mark.parametrize("facts", [ROOT, ROOTLESS, DOCKER], ids=["root", "rootless", "docker"])
def test_whatever_the_engine_a_container_has_no_network_no_rights_and_no_writable_root(facts):
    told = run(facts)
    assert "--read-only" in told
    assert after("--network", told) == ["none"]
    assert after("--cap-drop", told) == ["all"]
    assert {"no-new-privileges", "seccomp=/p.json"} <= set(after("--security-opt", told))
    assert after("--pull", told) == ["never"]
    assert after("--label", told) == ["gpu-agent=tag"]
    assert not [word for word in told if ".sock" in word or "privileged" in word]


def test_root_maps_its_containers_to_ids_that_nobody_has():
    told = run(ROOT)
    assert after("--user", told) == ["65534:65534"]
    assert after("--uidmap", told) == after("--gidmap", told) == ["0:1879113728:65536"]


def test_docker_without_user_namespaces_gets_an_id_that_nobody_has():
    assert after("--user", run(DOCKER, user=1879074657)) == ["1879074657:1879074657"]


def test_podman_writes_down_which_process_its_container_is_and_docker_is_asked():
    assert (after("--cidfile", run(ROOT)), after("--pidfile", run(ROOT))) == (["/c.id"], ["/c.pid"])
    assert not {"--cidfile", "--pidfile"} & set(run(DOCKER))


@pytest.mark.parametrize("pid", [None, "", "many"])
def test_without_a_pid_there_is_no_container(tmp_path, pid):
    (tmp_path / "id").write_text("0123")
    if pid is not None:
        (tmp_path / "pid").write_text(pid)
    written = container(id_file=tmp_path / "id", pid_file=tmp_path / "pid")
    with pytest.raises(SandboxError, match="podman does not say which process"):
        ask(Command(EngineName.PODMAN, ("podman",), {}), written)
    (tmp_path / "pid").write_text("7\n")
    assert ask(Command(EngineName.PODMAN, ("podman",), {}), written) == Told("0123", 7)


def test_podman_ends_by_itself_what_the_agent_forgot():
    spec = SandboxSpec(name="s", argv=("/bin/true",), limits=Limits(wall_s=9.5))
    assert after("--timeout", run(ROOT, spec)) == ["70"]
    assert after("--timeout", run(DOCKER, spec)) == []


def test_gpus_are_passed_on_by_their_cdi_names():
    spec = SandboxSpec(name="s", argv=("/bin/true",), gpus=("GPU-1", "MIG-2"))
    assert after("--device", run(ROOT, spec)) == ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=MIG-2"]


def test_a_path_with_a_comma_and_quotes_stays_one_path():
    (*_, told) = after("--mount", run(mounts=((Path('/models/a,"b",readonly=false'), "/model"),)))
    assert next(csv.reader([told])) == ["type=bind", 'src=/models/a,"b",readonly=false', "dst=/model", "readonly"]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"mounts": ((Path("/etc"), "/usr/lib"),)}, "belongs to the sandbox itself"),
        ({"mounts": ((Path("/etc"), "relative"),)}, "not an absolute path"),
        ({"spec": SandboxSpec(name="s", argv=("/bin/true",), env={"A-B": "1"})}, "variable cannot be called 'A-B'"),
        ({"spec": SandboxSpec(name="s", argv=("/bin/true", "a\0b"))}, "NUL byte"),
    ],
)
def test_what_cannot_be_told_to_an_engine_is_refused(fields, fault):
    with pytest.raises(SandboxError, match=fault):
        run(**fields)


def test_no_limit_is_asked_for_that_is_above_our_own():
    assert words.at_most(5000, "nofile", lambda _: (100, 4000)) == 4000
    assert words.at_most(5000, "nofile", lambda _: (100, resource.RLIM_INFINITY)) == 5000


def test_an_engines_complaint_is_told_without_its_advice():
    said = b"time=x level=warning msg=y\ndocker: Error response from daemon: no such mount.\nSee 'docker run --help'.\n"
    assert complaint(said) == "no such mount."
    assert complaint(b"") == "it did not say why"


def engine_that_removes(tmp_path, of_ten):
    """A podman that says it is busy, and removes none, the first times of ten that it is asked."""
    program = tmp_path / "podman"
    program.write_text(
        f"""#!/bin/sh
        cd {tmp_path}
        case $1 in
          ps) [ -e gone ] || echo 0123 mine ;;
          rm) echo >>asked; [ $(wc -l <asked) -gt {of_ten} ] && touch gone || {{ echo busy >&2; exit 125; }} ;;
        esac
        """
    )
    program.chmod(0o755)
    return Command(EngineName.PODMAN, (str(program),), {"PATH": os.environ["PATH"]})


@pytest.mark.parametrize("name", ["0123", "mine"])
def test_a_container_that_its_client_is_just_removing_too_is_removed_again(tmp_path, name):
    engine_that_removes(tmp_path, of_ten=2).remove(name)
    assert (tmp_path / "gone").exists()


def test_a_container_that_is_gone_is_no_error_whatever_its_engine_says(tmp_path):
    (tmp_path / "gone").touch()
    engine_that_removes(tmp_path, of_ten=9).remove("mine")
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


def test_a_container_that_cannot_be_removed_is_told(tmp_path):
    with pytest.raises(SandboxError, match="podman rm failed: busy"):
        engine_that_removes(tmp_path, of_ten=9).remove("mine")


def test_the_image_is_the_same_bytes_each_time():
    assert image.archive() == image.archive()


# ---------------------------------------------------------------- what the kernel knows of a container


def everywhere(directory):
    return dict.fromkeys(("memory", "pids", "cpu", "cpuacct"), directory)


def test_the_kernels_counts_are_read_in_both_versions(tmp_path):
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 1\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\n")
    (tmp_path / "memory.peak").write_text("4096\n")
    (tmp_path / "memory.oom_control").write_text("under_oom 0\noom_kill 0\n")
    (tmp_path / "cpuacct.usage").write_text("2500000000\n")
    (tmp_path / "memory.max_usage_in_bytes").write_text("8192\n")
    assert read(Places(2, everywhere(tmp_path))) == Remains(True, 1.5, 4096)
    assert read(Places(1, everywhere(tmp_path))) == Remains(False, 2.5, 8192)


def test_a_container_is_accounted_where_its_engine_put_it(tmp_path):
    theirs, ours = "4:memory:/libpod/a\n2:cpuacct,cpu:/libpod/a\n0::/\n", "4:memory:/me\n2:cpuacct,cpu:/me\n0::/\n"
    found = places(theirs, ours, tmp_path)
    assert found == Places(1, {c: tmp_path / c / "libpod" / "a" for c in ("memory", "cpu", "cpuacct")})
    (tmp_path / "cgroup.controllers").touch()
    assert places("0::/machine/a\n", "0::/\n", tmp_path) == Places(2, everywhere(tmp_path / "machine" / "a"))


@pytest.mark.parametrize("told", ["4:memory:/me\n2:cpuacct:/me\n", "0::/me\n"])
def test_what_the_agent_itself_has_used_is_not_told_as_a_containers(tmp_path, told):
    assert places(told, told, tmp_path).directories == {}


def test_a_cgroup_that_is_gone_tells_nothing(tmp_path):
    assert read(Places(2, everywhere(tmp_path / "gone"))) == read(Places(1, {})) == Remains()


FILES = {
    1: {"memory.limit_in_bytes": "4096", "pids.max": "9", "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"},
    2: {"memory.max": "4096", "pids.max": "9", "cpu.max": "50000 100000"},
}
UNSET = {
    1: {"memory.limit_in_bytes": "9223372036854771712", "pids.max": "max", "cpu.cfs_quota_us": "-1"},
    2: {"memory.max": "max", "pids.max": "max", "cpu.max": "max 100000"},
}
ASKED = [Limits(memory_bytes=5000), Limits(pids=9), Limits(cpus=0.5)]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("limits", ASKED)
def test_a_limit_that_the_engine_took_and_the_kernel_does_not_know_is_refused(tmp_path, version, limits):
    def kernel_knows(files):
        for name, text in files.items():
            (tmp_path / name).write_text(text + "\n")

    kernel_knows(FILES[version])
    require_held(Places(version, everywhere(tmp_path)), limits)
    kernel_knows(UNSET[version])
    for where in (Places(version, everywhere(tmp_path)), Places(version, {})):
        with pytest.raises(SandboxError, match="is not enforced: the engine took it"):
            require_held(where, limits)
        require_held(where, Limits())
