"""What no sandbox can be asked for, whatever the machine. Pure."""

from __future__ import annotations

import math

from agent.core.errors import SandboxError
from agent.ports import Limits, SandboxSpec

_MOST = 1 << 60
"""Beyond every machine, and within what the kernel and bubblewrap count in."""
_MAY_BE_NONE_OF = frozenset({"file_bytes", "stderr_bytes", "stdout_bytes", "out_bytes"})


def check(spec: SandboxSpec) -> None:
    """Raises SandboxError naming the first field of `spec` that means nothing."""
    if not spec.argv or not spec.argv[0]:
        raise SandboxError(f"sandbox {spec.name} names no program")
    words = (*spec.argv, spec.cwd, *(inside for _, inside in spec.ro_mounts), *spec.env, *spec.env.values())
    if not all(map(_can_be_told, words)):
        raise SandboxError(
            f"a path, argument or variable of sandbox {spec.name} contains what the kernel does not take"
        )
    for name in spec.env:
        if not name or "=" in name:
            raise SandboxError(f"{name!r} cannot be the name of a variable")
    for name in Limits.__struct_fields__:
        _check_limit(name, getattr(spec.limits, name))


def _can_be_told(word: str) -> bool:
    try:
        return b"\0" not in word.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False


def _check_limit(name: str, value: float | None) -> None:
    if value is None:
        return
    least = 0 if name in _MAY_BE_NONE_OF else math.ulp(0.0)
    if not least <= value <= _MOST:
        raise SandboxError(f"{value} is no limit for {name}")
