"""What an agent has outside its processes and files: its cgroups, named after its runtime directory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from agent.edges.sandbox import cgroups


def cgroup_parents() -> set[Path]:
    """Where agents of this user make cgroups; nowhere without the right to."""
    found = cgroups.find("gpu-agent") if os.geteuid() == 0 else None
    return set(found._parents.values()) if found else set()


def own_cgroups(runtime: Path) -> set[Path]:
    """Those of the agent with this runtime directory."""
    tag = "gpu-agent-" + hashlib.sha256(os.fsencode(runtime.absolute())).hexdigest()[:8]
    return {place for parent in cgroup_parents() for place in parent.glob(f"{tag}-*")}
