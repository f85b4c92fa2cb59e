"""Where else to look, for whoever finds nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

SERVICE_STATE = Path("/var/lib/gpu-agent")
"""Where the system service keeps what it did (systemd/gpu-agent.service)."""


def elsewhere(state_dir: Path, verb: str, service: Path = SERVICE_STATE) -> Iterable[str]:
    """Lines for people, where no node has worked in `state_dir`; nothing where one has."""
    from agent.config.places import places
    from agent.edges.outbox import OUTBOX_NAME

    if (state_dir / OUTBOX_NAME).exists():
        return
    yield f"No node has worked with {state_dir} (node.state_dir) yet."
    if os.geteuid() != 0 and service != state_dir and service.exists():
        yield f"  → for the system service: sudo gpu-agent {verb}"
    demo = places(os.environ, os.geteuid()).cache_dir.path / "demo" / "node.toml"
    if os.access(demo, os.R_OK):
        yield f"  → for the node of the last demo: gpu-agent {verb} -c {shlex.quote(str(demo))}"
    yield "  → to see it all happen here: gpu-agent demo; to join a coordinator: docs/install.md"
