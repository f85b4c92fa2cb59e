"""Finds out what the sandbox really keeps in on this machine, by running a program in it that tries to get out."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from agent.core.errors import SandboxError
from agent.core.fingerprint import Enforcement, SandboxFacts
from agent.edges.sandbox.host import userns_settings
from agent.edges.sandbox.mechanisms import Machine, enforcements
from agent.edges.sandbox.remedies import remedy_by_settings
from agent.ports import Limits, SandboxHandle, SandboxSpec

NAMESPACES = ("mnt", "pid", "net", "user", "ipc", "uts")
LEAK = "a test program got out of the sandbox"
"""How the detail of a sandbox begins that does not hold."""
_LIMITS = Limits(memory_bytes=256 << 20, pids=64, cpus=1, wall_s=60)
"""It takes half a second; the time is for a machine that just starts up and has everything else to do."""

# Each `open NAME` is a way out that worked. `done` proves that the script came to its end. A namespace is ours when its
# link differs from the agent's, which comes as an argument. Needs a shell and coreutils; a missing tool opens nothing.
_ESCAPES = """
open() { echo "open $1" >&2; }
[ -e "$1" ] && open files
shift
for host in "$@"; do
  case $host in "$(readlink "/proc/self/ns/${host%%:*}")") open "${host%%:*}-namespace";; esac
done
tr '\\0' '\\n' </proc/1/environ | grep -qv '^PWD=/$' && open environment
[ "$(grep -c : /proc/net/dev)" = 1 ] || open network
unshare --user true 2>/dev/null && open user-namespaces
mount -t tmpfs none /tmp 2>/dev/null && open mounts
for place in / /usr /etc /dev /run /proc/sys/kernel; do
  (: >"$place/gpu-agent-probe") 2>/dev/null && open "writes-to-$place"
done
(: >>/proc/sys/kernel/hostname) 2>/dev/null && open sysctl
grep -q '^Seccomp:[[:space:]]*2' /proc/self/status || open syscalls
grep -q '^NoNewPrivs:[[:space:]]*1' /proc/self/status || open new-privileges
grep -q '^Cap\\(Eff\\|Bnd\\|Prm\\):.*[1-9a-f]' /proc/self/status && open capabilities
echo done >&2
"""

Start = Callable[[SandboxSpec], Awaitable[SandboxHandle]]


async def probe(start: Start, machine: Machine, backend: str, bwrap: Path) -> SandboxFacts:
    """Facts found by one run of bubblewrap. Never raises SandboxError: what is wrong is `detail`, with the remedy."""
    try:
        said = await tried(start)
    except SandboxError as error:
        remedy = remedy_by_settings(userns_settings(), str(bwrap)) or error.remedy
        return SandboxFacts(backend=backend, usable=False, detail=str(SandboxError(error.message, remedy=remedy)))
    return judge(said, machine, backend)


async def tried(start: Start) -> Sequence[str]:
    """The lines that the test program wrote. Raises SandboxError when it did not run to its end."""
    spec = SandboxSpec(
        name="probe",
        argv=("/bin/sh", "-c", _ESCAPES, "probe", *escape_arguments()),
        limits=_LIMITS,
    )
    handle = await start(spec)
    end = await handle.wait()
    handle.close()
    said = handle.stderr_tail().splitlines()
    if "done" not in said:
        raise SandboxError(f"a test program did not run in it: {end.detail}")
    return said


def escape_arguments() -> Sequence[str]:
    """A file of the host that must be out of sight, and the agent's namespaces."""
    return (str(Path(__file__).resolve()), *(os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES))


def judge(said: Sequence[str], machine: Machine, backend: str) -> SandboxFacts:
    """What follows from the lines that the test program wrote in a sandbox of bubblewrap's."""
    return verdict(said, enforcements(machine), backend)


def verdict(
    said: Sequence[str], held: Sequence[Enforcement], backend: str, waived: frozenset[str] = frozenset()
) -> SandboxFacts:
    """What follows from the lines that the test program wrote, where the backend says of itself that it holds `held`.

    `waived` are ways that `held` tells of as limits that nobody enforces.
    """
    ways = [line.removeprefix("open ") for line in said if line.startswith("open ")]
    ways = [way for way in ways if way not in waived]
    network = not {"network", "net-namespace"} & set(ways)
    limits = (
        *held,
        Enforcement(limit="network", enforced=network, how="network namespace of its own" if network else "reachable"),
        Enforcement(
            limit="syscalls",
            enforced="syscalls" not in ways,
            how="not filtered" if "syscalls" in ways else "seccomp filter",
        ),
    )
    detail = f"{LEAK}: {', '.join(ways)}" if ways else ""
    return SandboxFacts(backend=backend, usable=not ways, limits=limits, detail=detail)
