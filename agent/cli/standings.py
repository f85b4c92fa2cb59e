"""How the GPUs are, by the daemon that watches them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import local
from agent.core.errors import AgentError

if TYPE_CHECKING:
    from agent.core.fingerprint import GpuStanding


def of_daemon(socket: Path) -> tuple[GpuStanding, ...]:
    """Empty when none answers, or an older one."""
    import msgspec

    from agent.core.fingerprint import GpuStanding

    try:
        told = local.ask(socket, "GET", "/v1/status")
        return msgspec.convert(told.get("gpus", []), tuple[GpuStanding, ...])
    except (AgentError, msgspec.ValidationError):  # then the verb looks for itself
        return ()
