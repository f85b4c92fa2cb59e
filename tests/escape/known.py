"""What stays open, and why. An opening that is not here fails the tests; so does one here that is closed by now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Opening(NamedTuple):
    why: str
    sometimes: str = ""
    """Which machines close it."""


_NO_CGROUP = "an agent that may make memory cgroups, as the service may"
_SAME_SANDBOX = (
    "Pid 1 is the sandbox's own, of the same user and with no more rights than the program. Who writes there controls "
    "what it controls already; the filter on system calls is inherited."
)
BUBBLEWRAP = {
    "memory_of_init": Opening(_SAME_SANDBOX),
    "write_the_memory_of_init": Opening(_SAME_SANDBOX),
    "landlock": Opening("A program may only take rights from itself with it. Engines that confine themselves need it."),
    "lower_the_oom_score": Opening(
        "The kernel lets a process take back what was only asked of it. It can go no lower than the agent itself; what "
        "bounds its memory is the limit.",
        "an agent with CAP_SYS_RESOURCE",
    ),
    "many_files": Opening(
        "bubblewrap cannot bound the number of files of a tmpfs. Each costs about a kilobyte of kernel memory, which "
        "the memory cgroup counts where there is one."
    ),
    "fill_the_socket_directory": Opening(
        "The directory of the engine's socket lies in the agent's runtime directory on the host and has no size of its "
        "own: a hostile engine can fill that file system. The service's unit gives it one of 16 MiB, apart from the "
        "host's /run. It is emptied when the engine ends. Programs of exec tasks have no such directory."
    ),
    "memory_in_files": Opening(
        "Without a memory cgroup, memory is measured per process ten times a second, and a memfd that nobody maps is "
        "no process's.",
        _NO_CGROUP,
    ),
    "socket_buffers": Opening(
        "Without a memory cgroup: likewise what lies in the buffers of sockets, up to some hundred kilobytes each.",
        _NO_CGROUP,
    ),
    "read_keys": Opening(
        "/proc/keys names the keys of the user that the agent is, never their content; root's sandbox has a user of "
        "its own, without keys.",
        "an agent that is root",
    ),
}
CONTAINERS = {
    name: BUBBLEWRAP[name]
    for name in (
        "memory_of_init",
        "write_the_memory_of_init",
        "landlock",
        "lower_the_oom_score",
        "fill_the_socket_directory",
    )
}
PODMAN = CONTAINERS | {
    "many_files": Opening(
        "podman takes no bound on the number of files of a tmpfs. Each costs about a kilobyte of kernel memory, which "
        "the container's memory limit counts."
    ),
}
KNOWN: Mapping[str, Mapping[str, Opening]] = {"bubblewrap": BUBBLEWRAP, "podman": PODMAN, "docker": CONTAINERS}
"""Backend → attempt."""
