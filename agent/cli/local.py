"""Asking the running daemon over its unix socket. The standard library only: aiohttp alone takes 180 ms to import."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

from agent.core.errors import FORBIDDEN, AgentError

TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 4 << 20
SERVICE_SOCKET = Path("/run/gpu-agent/control.sock")
"""Where the system service listens (systemd/gpu-agent.service)."""


class Unreachable(AgentError):
    """No daemon answers on the local socket."""

    exit_code = 69


class Forbidden(Unreachable):
    """Another user's daemon."""

    exit_code = FORBIDDEN


class Refused(AgentError):
    """The daemon would not do it."""


class _OverUnixSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call, with `body` as JSON. Raises Unreachable with what to do, or Refused with the daemon's own words."""
    connection = _OverUnixSocket(path)
    try:
        connection.request(method, route, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        told = json.loads(answer.read(MAX_ANSWER_BYTES))
    except PermissionError as fault:
        raise Forbidden(f"the daemon at {path} belongs to another user", remedy=_AS_ROOT) from fault
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise _unreachable(path, fault) from fault
    finally:
        connection.close()
    if answer.status >= 400:
        raise Refused(str(told.get("error", f"HTTP {answer.status}")), remedy=str(told.get("remedy", "")))
    return dict(told)


_AS_ROOT = "Ask as root, with sudo"


def _unreachable(path: Path, fault: Exception) -> Unreachable:
    if isinstance(fault, TimeoutError):
        return Unreachable(
            f"the daemon at {path} does not answer within {TIMEOUT_S:.0f} s",
            remedy="See its log (journalctl -u gpu-agent); the service manager replaces it when it is stuck",
        )
    if isinstance(fault, http.client.HTTPException | ValueError | BrokenPipeError | ConnectionResetError):
        return Unreachable(f"what answers at {path} is no gpu-agent", remedy="Check control.socket")
    return Unreachable(f"no daemon is running at {path}", remedy=_start_or_look_elsewhere(path))


def _start_or_look_elsewhere(path: Path) -> str:
    if os.geteuid() != 0 and path != SERVICE_SOCKET and SERVICE_SOCKET.parent.exists():
        return f"{_AS_ROOT}, when the system service is meant; or start your own: gpu-agent run"
    if path == SERVICE_SOCKET:
        return "Start it: sudo systemctl start gpu-agent (or, in a terminal: gpu-agent run)"
    return "Start it: gpu-agent run"


def control_socket(config_file: Path | None, overrides: tuple[str, ...]) -> Path:
    """Where this configuration's daemon listens. A configuration broken since it started does not hide it."""
    from agent.config import load
    from agent.config.places import places
    from agent.core.errors import ConfigError

    try:
        return load(config_file, overrides).control_socket
    except ConfigError:
        if config_file is not None or overrides:
            raise
        return places(os.environ, os.geteuid()).runtime_dir.path / "control.sock"
