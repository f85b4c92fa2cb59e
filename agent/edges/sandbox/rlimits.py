"""Resource limits of a process that runs already."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Mapping

_OPTIONS = {
    resource.RLIMIT_CORE: "--core",
    resource.RLIMIT_NOFILE: "--nofile",
    resource.RLIMIT_FSIZE: "--fsize",
    resource.RLIMIT_MSGQUEUE: "--msgqueue",
    resource.RLIMIT_NPROC: "--nproc",
}


def lower(pid: int, limits: Mapping[int, int], user_id: int | None) -> None:
    """Lower soft and hard limits of `pid`; one that is lower already stays, since not every agent may raise it.

    The kernel lets only the same user do this, or CAP_SYS_RESOURCE, which root lacks in many containers. `user_id` is
    the user of `pid` where that is not ours: then prlimit(1) does it in that user's name. Raises OSError.
    """
    # What `pid` inherited is what we have: nothing between us and it sets a limit.
    wanted = {kind: _at_most(value, resource.getrlimit(kind)[1]) for kind, value in limits.items()}
    try:
        for kind, value in wanted.items():
            resource.prlimit(pid, kind, (value, value))
    except PermissionError:
        if user_id is None:
            raise
        _lower_as(user_id, pid, wanted)


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _lower_as(user_id: int, pid: int, wanted: Mapping[int, int]) -> None:
    tool = shutil.which("prlimit", path="/usr/bin:/bin")
    if tool is None:
        raise PermissionError("the limits need CAP_SYS_RESOURCE, or prlimit of util-linux")
    words = [f"{_OPTIONS[kind]}={value}:{value}" for kind, value in wanted.items()]
    done = subprocess.run(
        [tool, "--pid", str(pid), *words],
        user=user_id,
        group=user_id,
        extra_groups=[],
        env={},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    if done.returncode != 0:
        raise PermissionError(done.stderr.strip())
