"""What of the owner's pauses outlives this run of the agent."""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.model import Value
from agent.core.orders import LONGEST_PAUSE_S

NODE = ""
"""In place of a device: the whole node."""


class KeptPause(Value):
    """The owner wants no new work here."""

    device: str
    """UUID of a GPU or MIG slice, or NODE."""
    until_at: float | None = None
    """Wall time, seconds; None: until `gpu-agent resume`."""

    def left_s(self, wall: float) -> float | None:
        """How long it still is, None without an end. No longer than any pause can be told to be, however far the wall
        clock was put back; 0 or less when it is over."""
        return None if self.until_at is None else min(self.until_at - wall, LONGEST_PAUSE_S)


def standing(kept: Iterable[KeptPause], wall: float) -> dict[str, KeptPause]:
    """Those that are not over, by device."""
    return {it.device: it for it in kept if (left_s := it.left_s(wall)) is None or left_s > 0}
