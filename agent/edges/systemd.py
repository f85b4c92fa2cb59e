"""The service manager: sd_notify(3) in a few own lines, and the watchdog that is fed only while all is well."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

from agent.core.text import plain
from agent.ports import Clock

_SEND_TIMEOUT_S = 1.0
"""The manager's receive queue may be full for a moment; it is never worth more than this."""
_MAX_STATUS = 400
START_STEP_S = 60.0
"""Shorter than the unit's TimeoutStartSec; a hung start is noticed after so long."""


class ServiceManager:
    """Tells systemd what the daemon does. Without a manager every call does nothing and returns False.

    A lost notification is no reason to stop serving: the manager has its own time limits.
    """

    def __init__(self, address: str | None) -> None:
        self._address = _socket_address(address)

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> ServiceManager:
        """From `$NOTIFY_SOCKET`."""
        return cls(environ.get("NOTIFY_SOCKET"))

    @property
    def present(self) -> bool:
        """Whether somebody listens."""
        return self._address is not None

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload, is complete."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(text))

    def reloading(self) -> bool:
        """The configuration is being read again; `ready` ends it."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """Shutdown has begun."""
        return self._send("STOPPING=1", *_status(status))

    def extend_timeout(self, seconds: float) -> bool:
        """Ask for so much more time, from now, in the current start or stop."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def feed_watchdog(self) -> bool:
        """Keep-alive."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        if self._address is None or not lines:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.settimeout(_SEND_TIMEOUT_S)
                manager.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True


def _status(text: str) -> list[str]:
    """One line: a newline would begin another field."""
    return [f"STATUS={' '.join(plain(text, limit=_MAX_STATUS).split())}"] if text else []


def _socket_address(address: str | None) -> str | None:
    """`@name` is an abstract socket; other families (vsock) are not for services on a host."""
    if not address or address[0] not in "@/":
        return None
    return "\0" + address[1:] if address[0] == "@" else address


def watchdog_period_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """How often to feed: a third of the manager's limit. None when not watched.

    sd_watchdog_enabled(3) advises half; a third leaves room for one that is skipped, as after a suspend.
    """
    limit_usec = environ.get("WATCHDOG_USEC", "")
    watched = environ.get("WATCHDOG_PID", "")
    if watched and watched != str(os.getpid() if pid is None else pid):
        return None
    if not limit_usec.isdigit() or int(limit_usec) == 0:
        return None
    return int(limit_usec) / 3e6


async def keep_starting(manager: ServiceManager, clock: Clock) -> None:
    """Until cancelled, ask for more time to start: a large model takes minutes to check, and a coordinator may be down.

    What still counts as hung is an event loop that no longer turns.
    """
    while True:
        manager.extend_timeout(START_STEP_S)
        await clock.sleep(START_STEP_S / 3)


async def keep_alive(
    manager: ServiceManager, period_s: float, clock: Clock, stalled: Callable[[], tuple[str, ...]]
) -> None:
    """Feed the watchdog until cancelled; while something stands still, say what in the status line instead."""
    while True:
        faults = stalled()
        if faults:
            manager.status("stuck: " + "; ".join(faults))
        else:
            manager.feed_watchdog()
        await clock.sleep(period_s)
