"""How much of a device's time challenges may take, whatever a coordinator asks. Time is passed in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.core.text import span

APART_S = 600.0
"""From the beginning of one challenge of a device to that of the next."""
WINDOW_S = 3600.0
MOST_S = 600.0
"""Of each such window, for which challenges may have a device: making room, loading and computing. An honest one takes
a minute or two."""
LEAST_S = 300.0
"""What must be left of that for another to begin: two minutes to make room and three to load (`stages.attest`,
`edges.gpu.matrix_children`), so that no hold ends later than it may."""


class Hold(NamedTuple):
    """For how long a challenge had a device."""

    challenge: str
    begun: float
    ended: float


class Budget:
    """Of all devices of a node."""

    def __init__(self) -> None:
        self._held: dict[str, list[Hold]] = {}

    def refusal(self, challenge: str, devices: Iterable[str], now: float) -> str:
        """Why this one may not have them now, in words; empty when it may. One that had them before may be taken up
        again at once, within the same share."""
        for device in devices:
            held, left_s = self._lately(device, now), self.left_s((device,), now)
            since_s = now - held[-1].begun if held else APART_S
            if since_s < APART_S and held[-1].challenge != challenge:
                return f"not now: {device} was challenged {span(since_s)} ago; once in {span(APART_S)} is enough"
            if left_s < LEAST_S:
                had, most = span(MOST_S - left_s), f"{span(MOST_S)} of {span(WINDOW_S)}"
                return f"not now: challenges had {device} for {had} lately; they may have it for {most}"
        return ""

    def left_s(self, devices: Iterable[str], now: float) -> float:
        """For how long the one that has the least left may still be held."""
        return min(MOST_S - sum(it.ended - it.begun for it in self._lately(device, now)) for device in devices)

    def spend(self, devices: Iterable[str], hold: Hold) -> None:
        """They were held."""
        for device in devices:
            self._held[device] = [*self._lately(device, hold.ended), hold]

    def _lately(self, device: str, now: float) -> list[Hold]:
        """In the window that ends now; of one that began before it, what lies within."""
        since = now - WINDOW_S
        return [it._replace(begun=max(it.begun, since)) for it in self._held.get(device, ()) if it.ended > since]
