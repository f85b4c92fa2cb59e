"""Whatever computes matrix challenges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agent.core.attest.messages import OpenedRow, Work


class MatrixEngine(Protocol):
    """Answers one challenge on several devices at once: prepare, commit, reread, open, in this order, then close.

    Every method that waits, but close, raises AttestError, and is over within its time, whatever a driver does.
    """

    def check(self, devices: Sequence[str]) -> None:
        """Before anything makes room for it: raises AttestError where what it computes with is not installed."""
        ...

    async def prepare(self, devices: Sequence[str], columns: int) -> tuple[int, ...]:
        """Load what is needed; returns what may be filled of each device, in bytes."""
        ...

    async def commit(self, seed: str, works: Sequence[Work], timeout_s: float) -> tuple[str, ...]:
        """Compute; the roots of all devices, in order."""
        ...

    async def reread(self, seed: str, timeout_s: float) -> tuple[tuple[str, ...], ...]:
        """The roots over what was kept, under a new seed: of each device one for each reading."""
        ...

    async def open(self, rows: Sequence[Sequence[int]], timeout_s: float) -> tuple[tuple[OpenedRow, ...], ...]:
        """The rows that were drawn, of each device."""
        ...

    async def close(self) -> None:
        """Let go of all devices, within a moment. Never raises; a new challenge may begin after it."""
        ...
