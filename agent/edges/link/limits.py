"""How long the link waits for what. One place, so that tests and slow networks can set them."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLimits:
    """Durations in seconds. A call that passes its own is given up as UNREACHABLE; the work is not."""

    open_s: float = 15.0
    """To resolve, connect, agree on TLS and greet: three round trips on a bad satellite line are 2 s."""
    reply_s: float = 15.0
    """For an answer that needs no waiting on the other side; under half a lease, so that a beat can be repeated."""
    pull_margin_s: float = 10.0
    """On top of the time that a pull may be kept waiting."""
    ping_s: float = 15.0
    """Silence after which the stream is asked for a sign of life; under the 30 s at which the strictest NATs forget."""
    pong_s: float = 10.0
    """How long that sign may take."""
    close_s: float = 1.0
    """For the peer's goodbye; nothing is lost without it."""
    blob_bytes_per_s: int = 128 << 10
    """The slowest upload that is waited for: a 64 MiB blob gets nine minutes."""

    def reply_limit_s(self, message: wire.UpMessage) -> float:
        """How long the reply to `message` is waited for."""
        if isinstance(message, wire.Pull):
            return message.wait_s + self.pull_margin_s
        return self.reply_s

    def blob_limit_s(self, size_bytes: int) -> float:
        """How long an upload may take."""
        return self.reply_s + size_bytes / self.blob_bytes_per_s
