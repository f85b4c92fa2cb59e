"""The sections [node], [coordinator] and [identity]: who this node is, and whom it works for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from agent.config.sections.spelling import Name
from agent.config.sections.words import says
from agent.core.model import Value


class TransportChoice(StrEnum):
    """How the node reaches its coordinator."""

    AUTO = "auto"
    WEBSOCKET = "websocket"
    POLL = "poll"


class NodeConfig(Value):
    """This machine."""

    name: Annotated[
        Name | None, says("Name shown to the coordinator; the host name when not set.", example="rig-1")
    ] = None
    state_dir: Annotated[
        Path,
        says("Keys, outbox and ledger; $STATE_DIRECTORY under systemd, below $XDG_STATE_HOME for an ordinary user."),
    ] = Path("/var/lib/gpu-agent")
    cache_dir: Annotated[
        Path, says("Things that can be made again; $CACHE_DIRECTORY under systemd, below $XDG_CACHE_HOME for a user.")
    ] = Path("/var/cache/gpu-agent")
    runtime_dir: Annotated[
        Path, says("Sockets, gone after a reboot; $RUNTIME_DIRECTORY under systemd, below $XDG_RUNTIME_DIR for a user.")
    ] = Path("/run/gpu-agent")
    drain_limit_s: Annotated[
        float,
        Meta(ge=0, le=86_400),
        says("Seconds that a drain lets running tasks finish before it hands them back."),
    ] = 300.0
    breaker_failures: Annotated[
        int,
        Meta(ge=1, le=1000),
        says("Tasks that fail in a row by this node's own fault before their pool takes none for a while."),
    ] = 5


class CoordinatorConfig(Value):
    """Where work comes from."""

    url: Annotated[
        str | None,
        says("Address of the coordinator; plain http:// only on this machine.", example="https://coordinator.example"),
    ] = None
    enrol_token_file: Annotated[
        Path | None,
        says("File with the one-time enrolment token, read once on first start.", example="/etc/gpu-agent/enrol.token"),
    ] = None
    ca_file: Annotated[
        Path | None,
        says("PEM file of the authority that signed the coordinator's certificate.", example="/etc/gpu-agent/ca.pem"),
    ] = None
    transport: Annotated[TransportChoice, says("WebSocket, long-poll, or whichever works.")] = TransportChoice.AUTO


class IdentityConfig(Value):
    """Who this node is."""

    key_file: Annotated[
        Path | None,
        says(
            "Ed25519 node key, mode 0600; the systemd credential `node.key`, or node.key in state_dir, when not set.",
            example="/var/lib/gpu-agent/node.key",
        ),
    ] = None
