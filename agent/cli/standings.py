"""How the GPUs are, and what engines take of them, by the daemon that watches them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import local
from agent.core.errors import AgentError

if TYPE_CHECKING:
    from agent.core.attest.messages import Attestation
    from agent.core.fingerprint import GpuStanding
    from agent.core.status import PoolStatus


def engines_of_daemon(socket: Path) -> tuple[PoolStatus, ...]:
    """Its pools. Empty when no daemon answers, or an older one."""
    import msgspec

    from agent.core.status import PoolStatus

    try:
        told = local.ask(socket, "GET", "/v1/status")
        return msgspec.convert(told.get("pools", []), tuple[PoolStatus, ...])
    except (AgentError, msgspec.ValidationError):
        return ()


def attestations_of_daemon(socket: Path) -> dict[str, Attestation]:
    """What the coordinator said of each GPU, by UUID. Empty when no daemon answers, or an older one."""
    import msgspec

    from agent.core.status import GpuStatus

    try:
        gpus = msgspec.convert(local.ask(socket, "GET", "/v1/status").get("gpus", []), tuple[GpuStatus, ...])
    except (AgentError, msgspec.ValidationError):
        return {}
    return {gpu.uuid: gpu.attestation for gpu in gpus if gpu.attestation}


def of_daemon(socket: Path) -> tuple[GpuStanding, ...]:
    """Empty when none answers, or an older one."""
    import msgspec

    from agent.core.fingerprint import GpuStanding

    try:
        told = local.ask(socket, "GET", "/v1/status")
        return msgspec.convert(told.get("gpus", []), tuple[GpuStanding, ...])
    except (AgentError, msgspec.ValidationError):  # then the verb looks for itself
        return ()
