"""The words that start one container. Pure: paths and numbers in, words out."""

from __future__ import annotations

import math
import re
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.edges.sandbox.confine import OOM_SCORE_ADJ
from agent.edges.sandbox.oci.facts import EngineName, Facts
from agent.edges.sandbox.profile import ENVIRONMENT, ETC, INSIDE_ID, SHM, mount_point, scratch, working_directory
from agent.ports import SandboxSpec

LABEL = "gpu-agent"
"""Its value tells one agent from another."""
PROCESS_LABEL = "gpu-agent-process"
"""Its value tells one run of an agent from another."""
IDS = range(0x7001_0000, 0x7002_0000)
"""Host ids of root's containers: within 0x70000000…0x7FFFFFFF, which nobody else uses (systemd.io/UIDS-AND-GIDS), and
beside the one of bubblewrap's sandboxes."""
TIMEOUT_SLACK_S = 60
"""How long after the agent should have ended it, podman ends a container by itself."""
PAGE_BYTES = 4096
CDI_KIND = "nvidia.com/gpu"
SHELL_NAME = "sandbox"
"""How the first process calls itself when it complains."""
STDOUT = "/run/stdout"
"""Where a container finds the pipe for its stdout: its engine would hold back, and then lose, what nobody reads."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The first process of a container. It says that it is there, waits for leave, and then waits for the program: a program
# that is itself process 1 would be deaf to signals it has not asked for, and nobody would bury its orphans. The leave
# comes over stdin; when the agent dies before, the end of stdin ends the container. What the shell itself has to say
# about a program that was killed goes nowhere.
FIRST = r"""
exec >"$3" || exit 125
printf '%s\n' "$1" >&2
read -r _ || exit 125
exec </dev/null
cd "$2" || exit 125
unset OLDPWD
count=$4
shift 4
while [ "$count" -gt 0 ]; do export "$1"; shift; count=$((count - 1)); done
exec 4>&2 2>/dev/null
(exec "$@" 2>&4 4>&-)
exit $?
"""


class Container(NamedTuple):
    """What a container is made of beside its spec."""

    name: str
    labels: Mapping[str, str]
    image: str
    seccomp: Path
    empty: Path
    """A file with nothing in it."""
    mark: str
    """What its first process says when it is there. It divides what the engine says from what the program does, and
    proves nothing: every user can read it in the engine's command line."""
    id_file: Path
    """podman writes the container's id there before it starts it,"""
    pid_file: Path
    """and there the pid of the first process."""
    mounts: Sequence[tuple[Path, str]]
    most_pids: int
    """Processes that this machine can have."""
    stdout: Path | None = None
    """A named pipe, where the program's stdout is wanted."""
    runtime: str | None = None
    user: int | None = None
    """Host id of its processes where it gets no user namespace."""


def run(spec: SandboxSpec, container: Container, facts: Facts) -> list[str]:
    """All words after the engine's own. Raises SandboxError for a mount that would cover the sandbox's own places."""
    words = ["run", "--interactive", "--name", container.name, "--pull", "never", "--log-driver", "none"]
    if facts.name is EngineName.PODMAN:
        words += ["--cidfile", str(container.id_file), "--pidfile", str(container.pid_file)]
    for key, value in container.labels.items():
        words += ["--label", f"{key}={value}"]
    if container.runtime is not None and facts.name is EngineName.DOCKER:
        words += ["--runtime", container.runtime]
    words += _confinement(container, facts) + _ids(container, facts)
    words += _limits(spec, container, facts) + _file_systems(spec, facts)
    for source, inside in container.mounts:
        words += _bind(source, mount_point(inside), read_only=True)
    if container.stdout is not None:
        words += _bind(container.stdout, STDOUT, read_only=True)
    if spec.socket_dir is not None:
        words += _bind(spec.socket_dir, "/sock")
    for uuid in spec.gpus:
        words += ["--device", f"{CDI_KIND}={uuid}"]
    words += [container.image, *_first(spec, container)]
    if any("\0" in word for word in words):
        raise SandboxError(f"a path or variable of sandbox {spec.name} contains a NUL byte")
    return words


def _confinement(container: Container, facts: Facts) -> list[str]:
    words = ["--network", "none", "--ipc", "private", "--cgroupns", "private", "--hostname", "sandbox", "--read-only"]
    words += ["--cap-drop", "all", "--security-opt", "no-new-privileges"]
    words += ["--security-opt", f"seccomp={container.seccomp}"]
    if facts.selinux:  # its labels would hide the host's /usr
        words += ["--security-opt", "label=disable"]
    if facts.name is EngineName.PODMAN:
        words += ["--security-opt", "mask=/sys", "--read-only-tmpfs=false", "--no-hosts", "--passwd=false"]
        words += ["--http-proxy=false", "--systemd=false", "--image-volume=ignore"]
    else:
        # docker would tell the host's name servers.
        words += ["--tmpfs", "/sys:ro,size=4k", *_bind(container.empty, "/etc/resolv.conf", read_only=True)]
    return words


def _ids(container: Container, facts: Facts) -> list[str]:
    if container.user is not None:
        return ["--user", f"{container.user}:{container.user}"]
    words = ["--user", f"{INSIDE_ID}:{INSIDE_ID}"]
    if facts.name is EngineName.DOCKER:
        return words
    if facts.rootless:  # its programs run as the agent's own user: then that user may read what they leave behind
        return [*words, "--userns", f"keep-id:uid={INSIDE_ID},gid={INSIDE_ID}"]
    for option in ("--uidmap", "--gidmap"):
        words += [option, f"0:{IDS.start}:{len(IDS)}"]
    return words


def _limits(spec: SandboxSpec, container: Container, facts: Facts) -> list[str]:
    limits = spec.limits
    words = ["--oom-score-adj", str(OOM_SCORE_ADJ)]
    if limits.memory_bytes is not None:
        # The same for both: no swap beside it.
        words += ["--memory", str(limits.memory_bytes), "--memory-swap", str(limits.memory_bytes)]
    # podman has a limit of its own where it is not told of one.
    words += ["--pids-limit", "-1" if limits.pids is None else str(limits.pids)]
    if limits.cpus is not None:
        words += ["--cpus", f"{limits.cpus:.3f}"]
    if limits.wall_s is not None and facts.name is EngineName.PODMAN:
        words += ["--timeout", str(math.ceil(limits.wall_s) + TIMEOUT_SLACK_S)]
    # 1, not 0: a core_pattern that is a pipe ignores 0. Message queues are kernel memory that no tmpfs bounds.
    rlimits = {"core": 1, "nofile": limits.open_files, "fsize": limits.file_bytes, "msgqueue": 0}
    rlimits = {kind: at_most(value, kind) for kind, value in rlimits.items()}
    if facts.name is EngineName.PODMAN and not facts.rootless:
        # podman's own wish is above what root may set in many containers and virtual machines; it lowers its own.
        rlimits["nproc"] = at_most(container.most_pids, "nproc")
    for kind, value in rlimits.items():
        words += ["--ulimit", f"{kind}={value}:{value}"]
    return words


def at_most(value: int, kind: str, hard_limit: Callable[[int], tuple[int, int]] = resource.getrlimit) -> int:
    """`value`, or our own hard limit where that is lower: who may not raise it must not ask for it."""
    hard = hard_limit(getattr(resource, f"RLIMIT_{kind.upper()}"))[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _file_systems(spec: SandboxSpec, facts: Facts) -> list[str]:
    # Empty files take kernel memory, too: no more of them than pages. podman does not take that option.
    files = ",nr_inodes={}" if facts.name is EngineName.DOCKER else ""
    words = _bind(Path("/usr"), "/usr", read_only=True)
    for path in ETC:
        if Path(path).exists():
            words += _bind(Path(path), path, read_only=True)
    for path, size in scratch(spec.limits).items():
        if path == SHM:
            words += ["--shm-size", str(size)]
        else:
            words += ["--tmpfs", f"{path}:rw,nosuid,nodev,exec,mode=1777,size={size}{files.format(size // PAGE_BYTES)}"]
    return words


def _bind(source: Path, inside: str, *, read_only: bool = False) -> list[str]:
    fields = ["type=bind", f"src={source}", f"dst={inside}", *(["readonly"] if read_only else [])]
    return ["--mount", ",".join(_field(field) for field in fields)]


def _field(text: str) -> str:
    """One field of a line of CSV, as which engines read it."""
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text


def _first(spec: SandboxSpec, container: Container) -> list[str]:
    environment = ENVIRONMENT | spec.env
    if strange := [name for name in environment if not _NAME.fullmatch(name)]:
        raise SandboxError(f"a variable cannot be called {strange[0]!r}")
    # By way of env, so that /proc/1/environ tells nothing of what the engine put there.
    words = ["/usr/bin/env", "-i", "/bin/sh", "-c", FIRST, SHELL_NAME, container.mark]
    words += [working_directory(spec.cwd), STDOUT if container.stdout is not None else "/dev/null"]
    words += [str(len(environment))]
    return [*words, *(f"{name}={value}" for name, value in environment.items()), *spec.argv]
