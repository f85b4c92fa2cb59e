"""The sections [logs], [control], [metrics] and [page]: what the agent tells, and to whom."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from agent.config.sections.words import says
from agent.core.model import Value


class LogLevel(StrEnum):
    """Lowest level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line looks."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogsConfig(Value):
    """What the agent tells, on standard error."""

    level: Annotated[LogLevel, says("Lowest level that is written.")] = LogLevel.INFO
    format: Annotated[LogFormat, says("JSON lines, or text for people; auto is text on a terminal.")] = LogFormat.AUTO


class ControlConfig(Value):
    """The local socket that `gpu-agent status` talks to."""

    socket: Annotated[
        Path | None,
        says("Path of the socket; control.sock in runtime_dir when not set.", example="/run/gpu-agent/control.sock"),
    ] = None


class MetricsConfig(Value):
    """What Prometheus reads: `GET /metrics`."""

    enabled: Annotated[bool, says("Whether to serve them.")] = True
    listen: Annotated[
        str,
        says("Address and port; by default this machine alone can ask. Everybody who reaches the address reads them."),
    ] = "127.0.0.1:9410"


class PageConfig(Value):
    """The owner's page: what `gpu-agent status` tells, in a browser. It shows, and can change nothing."""

    enabled: Annotated[bool, says("Whether to serve it; everybody who has an account on this machine can read it.")] = (
        False
    )
    listen: Annotated[
        str,
        says("Address and port, of this machine alone; from elsewhere: ssh -L 9411:127.0.0.1:9411 rig."),
    ] = "127.0.0.1:9411"
