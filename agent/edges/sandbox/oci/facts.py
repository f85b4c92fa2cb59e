"""What a container engine says of itself, and what follows from it. Pure."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any

from agent.core.errors import SandboxError
from agent.core.fingerprint import Enforcement
from agent.core.model import Value
from agent.edges.sandbox.mechanisms import ALWAYS, Machine, output
from agent.ports import Limits

CONTROLLERS = ("memory", "pids", "cpu")
OLDEST_PODMAN = (4, 3)
"""First version whose `keep-id` takes the id to keep; Debian 12 has it."""
OLDEST_DOCKER = (20, 10)
"""First version with errno values in its system call policy, and private cgroup namespaces."""
OLDEST_DOCKER_CDI = (25, 0)
_ROOTLESS_V1 = (
    "{engine} without root on cgroup v1 ignores limits of memory, processes and cpus silently",
    "Boot with cgroup v2 (`systemd.unified_cgroup_hierarchy=1`), run the agent as root, or set "
    'sandbox.backend = "bubblewrap"',
)


class EngineName(StrEnum):
    """A container engine."""

    PODMAN = "podman"
    DOCKER = "docker"


class Facts(Value):
    """One engine on this machine."""

    name: EngineName
    version: str
    rootless: bool
    cgroup_version: int
    controllers: frozenset[str]
    """Limits that it really sets."""
    runtime: str
    """Runtime that it takes when none is named."""
    runtimes: frozenset[str] = frozenset()
    """Runtimes that it knows; empty where it does not say."""
    remapped: bool = False
    """Whether every container of its gets a user namespace without being asked."""
    selinux: bool = False
    cdi: bool = True
    """Whether it takes devices by CDI names."""

    @property
    def backend(self) -> str:
        """As the fingerprint tells it."""
        return f"{self.name} {self.version}"


def parse_podman(said: str) -> Facts:
    """`podman info --format json`. Raises SandboxError."""
    document = _document(said, "podman")
    host = document.get("host", {})
    security = host.get("security", {})
    rootless = bool(security.get("rootless"))
    version = _at_least(EngineName.PODMAN, str(document.get("version", {}).get("Version", "")), OLDEST_PODMAN)
    generation = 2 if host.get("cgroupVersion") == "v2" else 1
    # As root on version 1 it lists what the kernel has, without root what nobody gave it.
    given = () if rootless and generation == 1 else host.get("cgroupControllers") or ()
    return Facts(
        name=EngineName.PODMAN,
        version=version,
        rootless=rootless,
        cgroup_version=generation,
        controllers=frozenset(given) & frozenset(CONTROLLERS),
        runtime=str((host.get("ociRuntime") or {}).get("name", "")),
        selinux=bool(security.get("selinuxEnabled")),
    )


def parse_docker(said: str) -> Facts:
    """`docker info --format '{{json .}}'`. Raises SandboxError."""
    document = _document(said, "docker")
    if faults := document.get("ServerErrors"):
        raise SandboxError(f"docker has no daemon: {faults[0]}", remedy="`sudo systemctl start docker`")
    version = _at_least(EngineName.DOCKER, str(document.get("ServerVersion", "")), OLDEST_DOCKER)
    options = [str(option) for option in document.get("SecurityOptions") or ()]
    sets = {"memory": "MemoryLimit", "pids": "PidsLimit", "cpu": "CpuCfsQuota"}
    return Facts(
        name=EngineName.DOCKER,
        version=version,
        rootless="name=rootless" in options,
        cgroup_version=2 if document.get("CgroupVersion") == "2" else 1,
        controllers=frozenset(limit for limit, key in sets.items() if document.get(key)),
        runtime=str(document.get("DefaultRuntime", "")),
        runtimes=frozenset(document.get("Runtimes") or ()),
        remapped="name=userns" in options,
        selinux="name=selinux" in options,
        cdi=_numbers(version) >= OLDEST_DOCKER_CDI and bool(document.get("CDISpecDirs", True)),
    )


def require(limits: Limits, facts: Facts) -> None:
    """Raises SandboxError naming the first of `limits` that the engine would not hold, and why."""
    wanted = {"memory": limits.memory_bytes, "pids": limits.pids, "cpu": limits.cpus}
    missing = [limit for limit, value in wanted.items() if value is not None and limit not in facts.controllers]
    if missing:
        why, remedy = lacking(facts)
        raise SandboxError(f"a limit of {missing[0]} cannot be enforced: {why}", remedy=remedy)


def lacking(facts: Facts) -> tuple[str, str]:
    """Why an engine sets no limits, and the remedy."""
    if facts.rootless and facts.cgroup_version == 1:
        return _ROOTLESS_V1[0].format(engine=facts.name), _ROOTLESS_V1[1]
    if facts.rootless:
        return (
            f"{facts.name} without root has no such cgroup controller",
            "Delegate it: Delegate=cpu memory pids in a drop-in of user@.service",
        )
    return f"{facts.name} has no such cgroup controller", "Enable the controller in the kernel's command line"


def enforcements(facts: Facts) -> tuple[Enforcement, ...]:
    """How each limit is held."""
    why, _ = lacking(facts)
    groups = (
        Enforcement(limit=limit, enforced=True, how=f"cgroup v{facts.cgroup_version} of {facts.name}")
        if limit in facts.controllers
        else Enforcement(limit=limit, enforced=False, how=why)
        for limit in CONTROLLERS
    )
    return (*groups, *ALWAYS, output(Machine()))


def choose_runtime(wanted: str, facts: Facts, installed: frozenset[str]) -> str | None:
    """The runtime to name to the engine; None leaves it to the engine. `installed` are those found on this machine.

    crun does not start where cgroups of both versions are mounted, so there runc is named. Raises SandboxError.
    """
    known = facts.runtimes or installed
    if wanted != "auto":
        if wanted not in known:
            raise SandboxError(
                f"{facts.name} has no runtime {wanted}", remedy=f"Install {wanted}, or set sandbox.runtime"
            )
        return wanted
    if facts.name is EngineName.DOCKER or facts.cgroup_version == 2:
        return None
    if "runc" not in known:
        raise SandboxError("on cgroup v1 runc is needed, which is missing", remedy="`sudo apt-get install runc`")
    return "runc"


def _document(said: str, engine: str) -> dict[str, Any]:
    try:
        document = json.loads(said)
    except ValueError as error:
        raise SandboxError(f"{engine} says nothing of itself that can be read: {said[:200]}") from error
    if not isinstance(document, dict):
        raise SandboxError(f"{engine} says nothing of itself that can be read: {said[:200]}")
    return document


def _at_least(engine: EngineName, version: str, oldest: tuple[int, int]) -> str:
    if _numbers(version) < oldest:
        wanted = ".".join(map(str, oldest))
        raise SandboxError(f"{engine} {version or '?'} is too old; {wanted} or newer is needed")
    return version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
