"""Watch the clock: tell the core when a lease, a task's deadline or the drain limit has come."""

from __future__ import annotations

from agent.core import events as ev
from agent.core.watchdog import Pulse
from agent.stages.spine import Spine

TURN_S = 0.25
"""An eighth of the smallest lease margin (2 s). A steady beat costs less than re-arming a timer at every event."""


class Watch:
    """Looks four times a second."""

    def __init__(self, spine: Spine, pulse: Pulse) -> None:
        self._spine = spine
        self._pulse = pulse

    async def run(self) -> None:
        """Run until cancelled."""
        clock, node = self._spine.clock, self._spine.node
        while True:
            now = clock.monotonic()
            self._pulse.beat("watch", now)
            due = node.next_deadline()
            if due is not None and due <= now:
                self._spine.feed(ev.Ticked())
            await clock.sleep(TURN_S)
