"""Watch the clock: tell the core when a lease, a task's deadline or the drain limit has come, and tell the watchdog of
loops that act on demand whether they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.core import events as ev
from agent.core.watchdog import Pulse, Tally
from agent.stages.spine import Spine

TURN_S = 0.25
"""An eighth of the smallest lease margin (2 s). A steady beat costs less than re-arming a timer at every event."""


class Watch:
    """Looks four times a second."""

    def __init__(self, spine: Spine, pulse: Pulse, tallies: Mapping[str, Callable[[], Tally]] | None = None) -> None:
        """`tallies`: of the loops that act on demand, by name."""
        self._spine = spine
        self._pulse = pulse
        self._tallies = dict(tallies or {})
        self._before: dict[str, Tally] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        clock, node = self._spine.clock, self._spine.node
        while True:
            now = clock.monotonic()
            self._pulse.beat("watch", now)
            self._look_at_the_others(now)
            due = node.next_deadline()
            if due is not None and due <= now:
                self._spine.feed(ev.Ticked())
            await clock.sleep(TURN_S)

    def _look_at_the_others(self, now: float) -> None:
        for name, tell in self._tallies.items():
            tally = tell()
            if tally.moved_since(self._before.get(name)):
                self._pulse.beat(name, now)
            self._before[name] = tally
