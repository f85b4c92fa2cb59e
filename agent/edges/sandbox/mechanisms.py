"""Which mechanism holds which limit on this machine. Pure."""

from __future__ import annotations

from agent.core.errors import SandboxError
from agent.core.fingerprint import Enforcement
from agent.core.model import Value
from agent.ports import Limits

WATCH_PERIOD_S = 0.1
"""A program that allocates 2 GiB/s overshoots a watched limit by some 200 MiB: the price of having no cgroup."""
NPROC_KERNEL = (5, 14)
"""Since Linux 5.14 RLIMIT_NPROC counts per user namespace; before, per user of the whole machine."""


ALWAYS = (
    Enforcement(
        limit="disk", enforced=True, how="every writable place but the socket directory is a tmpfs of fixed size"
    ),
    Enforcement(limit="files", enforced=True, how="RLIMIT_NOFILE and RLIMIT_FSIZE; a file on a tmpfs counts as memory"),
    Enforcement(limit="wall", enforced=True, how="the agent's clock, then the pid namespace is killed"),
)
"""What rests on nothing but the agent and the sandbox itself."""


_REMEDIES = {"output": "Give the agent CAP_SYS_PTRACE, or run it as an ordinary user"}


class Machine(Value):
    """What the choice rests on."""

    cgroup_version: int = 0
    """1 or 2; 0 where no cgroup may be made."""
    controllers: frozenset[str] = frozenset()
    kernel: tuple[int, int] = (0, 0)
    threads: int = 1
    """Processors that the agent may use."""
    reaches_inside: bool = True
    """Whether the agent may open what is mounted in a sandbox."""


class Means(Value):
    """What to set for one sandbox; None and False where something else, or nothing, does it."""

    group_memory_bytes: int | None = None
    group_pids: int | None = None
    group_cpus: float | None = None
    watched_memory_bytes: int | None = None
    own_pids: int | None = None
    """RLIMIT_NPROC inside the sandbox's user namespace."""
    pinned_threads: int | None = None

    @property
    def needs_group(self) -> bool:
        """Whether a cgroup has to be made."""
        return (self.group_memory_bytes, self.group_pids, self.group_cpus) != (None, None, None)


def choose(limits: Limits, machine: Machine) -> Means:
    """The means for `limits`. Raises SandboxError naming the first limit that cannot be enforced, and why."""
    means: dict[str, float | int | None] = {}
    if limits.memory_bytes is not None:
        means["group_memory_bytes" if "memory" in machine.controllers else "watched_memory_bytes"] = limits.memory_bytes
    if limits.out_bytes:
        _require(output(machine))
    if limits.pids is not None:
        if "pids" not in machine.controllers:
            _require(_pids(machine))
        means["group_pids" if "pids" in machine.controllers else "own_pids"] = limits.pids
    if limits.cpus is not None and "cpu" in machine.controllers:
        means["group_cpus"] = limits.cpus
    elif limits.cpus is not None:
        if limits.cpus < 1:
            raise SandboxError(
                f"a limit of {limits.cpus:g} cpus cannot be enforced: there is no cpu cgroup to write",
                remedy="Ask for at least one whole cpu, or run the agent as a service with Delegate=cpu",
            )
        means["pinned_threads"] = min(int(limits.cpus), machine.threads)
    return Means(**means)  # type: ignore[arg-type]  # keyed by name above


def enforcements(machine: Machine) -> tuple[Enforcement, ...]:
    """How each limit is held here."""
    return (
        _memory(machine),
        _pids(machine),
        _cpu(machine),
        *ALWAYS,
        output(machine),
    )


def output(machine: Machine) -> Enforcement:
    """What a program may hand out."""
    if machine.reaches_inside:
        how = "stdout is a pipe that the agent reads as far as allowed, /out a tmpfs of fixed size"
        return Enforcement(limit="output", enforced=True, how=how)
    how = "without CAP_SYS_PTRACE the agent cannot reach /out; programs that leave something there are refused"
    return Enforcement(limit="output", enforced=False, how=how)


def _require(enforcement: Enforcement) -> None:
    if not enforcement.enforced:
        raise SandboxError(
            f"a limit of {enforcement.limit} cannot be enforced: {enforcement.how}",
            remedy=_REMEDIES.get(enforcement.limit, "Run the agent as a service with Delegate=cpu memory pids"),
        )


def _memory(machine: Machine) -> Enforcement:
    if "memory" in machine.controllers:
        return Enforcement(limit="memory", enforced=True, how=f"cgroup v{machine.cgroup_version}")
    how = f"no memory cgroup: measured every {WATCH_PERIOD_S * 1000:g} ms and killed when above; "
    how += "what belongs to no process (memfds, buffers of sockets) is not seen"
    return Enforcement(limit="memory", enforced=True, how=how, evadable=True)


def _pids(machine: Machine) -> Enforcement:
    if "pids" in machine.controllers:
        return Enforcement(limit="pids", enforced=True, how=f"cgroup v{machine.cgroup_version}")
    if machine.kernel >= NPROC_KERNEL:
        return Enforcement(limit="pids", enforced=True, how="RLIMIT_NPROC inside the user namespace")
    how = (
        f"no pids cgroup, and Linux {machine.kernel[0]}.{machine.kernel[1]} counts RLIMIT_NPROC over the whole machine"
    )
    return Enforcement(limit="pids", enforced=False, how=how)


def _cpu(machine: Machine) -> Enforcement:
    if "cpu" in machine.controllers:
        return Enforcement(limit="cpu", enforced=True, how=f"cgroup v{machine.cgroup_version}")
    return Enforcement(limit="cpu", enforced=True, how="no cpu cgroup: pinned to whole cpus; less than one is refused")
