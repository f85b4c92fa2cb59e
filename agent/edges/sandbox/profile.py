"""The bubblewrap command line of one sandbox. Pure: paths and numbers in, words out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.ports import Limits, SandboxSpec

TMP = "/tmp"  # noqa: S108 (always a tmpfs of our own)
SHM = "/dev/shm"  # noqa: S108 (likewise)
OUT = "/out"
INSIDE_ID = 65534
"""User and group id inside: nobody."""
SHM_BYTES = 64 << 20
RUN_BYTES = 1 << 20
_RESERVED = ("/proc", "/dev", "/sys", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/run", "/sock", OUT)
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": TMP, "TMPDIR": TMP, "USER": "nobody", "LANG": "C.UTF-8"}
# The loader's cache and the links of Debian's alternatives, through which some libraries are found. No passwd, no
# resolver, no certificates: nothing inside needs them.
ETC = ("/etc/ld.so.cache", "/etc/alternatives")


class Tools(NamedTuple):
    """The programs of util-linux that root needs."""

    setpriv: Path
    unshare: Path


class Stage:
    """Gives a path that the sandbox's user may not reach a place where it can.

    bubblewrap resolves every source as the user that runs it, so an unprivileged one cannot bind what lies below a
    0700 directory, not even by file descriptor. As root, a first bubblewrap binds those paths to `/tmp/<n>` of a mount
    namespace of its own; the second, unprivileged, finds them there. The mounts end with the sandbox.

    The first one also makes a pid namespace: root without capabilities, which its monitor is, may not signal another
    user, not even at its death, but when the first process of a pid namespace dies, the kernel kills all in it. That
    first process is unshare(1), which ends when the second bubblewrap does, whatever that leaves behind: bubblewrap's
    own would wait for a sandbox whose builder died, of a broken pipe say because the agent was killed. The second
    looks itself up in /proc by number, so it needs that namespace's. The first one's `--proc` would cover parts
    of it, and then the kernel lets nobody without privileges mount another; unshare(1) mounts a whole one.
    """

    def __init__(self) -> None:
        self._binds: list[tuple[str, Path]] = []

    def place(self, source: Path, *, writable: bool = False) -> Path:
        """Where `source` will be found."""
        self._binds.append(("--bind" if writable else "--ro-bind", source))
        return Path(f"{TMP}/{len(self._binds) - 1}")

    def command(self, bwrap: Path, tools: Tools, user_id: int) -> list[str]:
        """The words to put before the inner command."""
        words = [str(bwrap), "--unshare-pid", "--as-pid-1", "--die-with-parent"]
        words += ["--dev-bind", "/", "/", "--perms", "0755", "--tmpfs", TMP]
        for number, (option, source) in enumerate(self._binds):
            words += [option, str(source), f"{TMP}/{number}"]
        words += ["--remount-ro", TMP, "--", str(tools.unshare), "--mount-proc", "--fork", "--"]
        words += [str(tools.setpriv), "--reuid", str(user_id), "--regid", str(user_id), "--clear-groups"]
        return [*words, "--bounding-set=-all", "--inh-caps=-all", "--"]


def options(
    spec: SandboxSpec,
    *,
    mounts: Sequence[tuple[Path, str]],
    socket_dir: Path | None,
    devices: Sequence[Path],
    fds: Mapping[str, int],
) -> list[str]:
    """Everything that bubblewrap reads from `--args`.

    `mounts` and `socket_dir` are where the sources are found when bubblewrap runs; `fds` maps the options `seccomp`,
    `info-fd` and `block-fd` to descriptors, and `built` to one that bubblewrap reads to its end when everything is
    mounted. Raises SandboxError for a mount point that would cover the profile's own.
    """
    words = [
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    words += ["--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID), "--disable-userns", "--hostname", "sandbox"]
    words += ["--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    words += _system()
    for device in devices:
        words += ["--dev-bind", str(device), str(device)]
    words += _scratch(spec.limits)
    for source, inside in mounts:
        words += ["--ro-bind", str(source), mount_point(inside)]
    if socket_dir is not None:
        words += ["--bind", str(socket_dir), "/sock"]
    if "built" in fds:
        words += ["--file", str(fds["built"]), "/dev/null"]
    # bubblewrap's /dev and root are writable tmpfs of no size until now.
    words += ["--remount-ro", "/dev", "--remount-ro", "/run", "--remount-ro", "/"]
    words += ["--chdir", working_directory(spec.cwd)]
    for name, value in (ENVIRONMENT | spec.env).items():
        words += ["--setenv", name, value]
    for option in ("seccomp", "info-fd", "block-fd"):
        if option in fds:
            words += [f"--{option}", str(fds[option])]
    return words


def _system() -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64"):
        words += ["--symlink", f"usr/{name}", f"/{name}"]
    for path in ETC:
        words += ["--ro-bind-try", path, path]
    # /proc stays writable, since CUDA names its threads there; /proc/sys holds the machine's settings.
    return [*words, "--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]


def scratch(limits: Limits) -> dict[str, int]:
    """The places that a program may fill, with their sizes in bytes."""
    places = {TMP: limits.tmp_bytes, SHM: SHM_BYTES}
    return places | {OUT: limits.out_bytes} if limits.out_bytes else places


def _scratch(limits: Limits) -> list[str]:
    words: list[str] = []
    for path, size in scratch(limits).items():
        words += ["--size", str(size), "--perms", "1777", "--tmpfs", path]
    return [*words, "--size", str(RUN_BYTES), "--perms", "0755", "--tmpfs", "/run"]


def working_directory(inside: str) -> str:
    """`inside`, checked. Raises SandboxError."""
    path = PurePosixPath(inside)
    if not path.is_absolute() or ".." in path.parts:
        raise SandboxError(f"working directory {inside} is not an absolute path inside the sandbox")
    return str(path)


def mount_point(inside: str) -> str:
    """`inside`, checked not to cover anything of the sandbox's own. Raises SandboxError."""
    path = PurePosixPath(inside)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise SandboxError(f"mount point {inside} is not an absolute path inside the sandbox")
    if any(path.is_relative_to(reserved) for reserved in _RESERVED):
        raise SandboxError(
            f"mount point {inside} belongs to the sandbox itself", remedy="Mount it elsewhere, such as /opt"
        )
    return str(path)
