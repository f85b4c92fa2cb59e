"""Owner: shuts the node's gates while the owner needs his machine, and clears it when he wants it cleared."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import structlog

from agent.core import events as ev
from agent.core.model import Reason
from agent.core.owner import OwnerGates, OwnerPolicy
from agent.core.status import Gate
from agent.core.watchdog import Pulse
from agent.ports import OwnerView
from agent.stages.spine import Spine

LOOK_EVERY_S = 5.0


class Owner:
    """Looks at the owner's side of the machine, and lets the core know."""

    def __init__(
        self, spine: Spine, policy: OwnerPolicy, view: OwnerView, pulse: Pulse, *, hand_back_after_s: float | None
    ) -> None:
        """`hand_back_after_s`: how long what runs may go on once the owner needs the machine; None: to its end."""
        self._spine = spine
        self._gates = OwnerGates(policy)
        self._view = view
        self._pulse = pulse
        self._hand_back_after_s = hand_back_after_s
        self._eyes = ThreadPoolExecutor(1, "owner")
        """Of its own: what else runs in threads may hang with a disk, and would make this loop seem to stand still."""
        self._changed = asyncio.Event()
        """He wants it otherwise."""
        self._shut: dict[Reason, Gate] = {}
        self._since: float | None = None
        self._log = structlog.get_logger("owner")

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            now = self._spine.clock.monotonic()
            self._pulse.beat("owner", now)
            loop, wall, view = asyncio.get_running_loop(), self._spine.clock.wall(), self._view
            seen = await loop.run_in_executor(self._eyes, view.look, wall)
            if view is self._view:  # else it was seen by what was asked for before
                self._apply(self._gates.read(seen, now), now)
            await self._next_look()

    async def _next_look(self) -> None:
        waits = [asyncio.ensure_future(it) for it in (self._spine.clock.sleep(LOOK_EVERY_S), self._changed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._changed.clear()

    def obey(self, policy: OwnerPolicy, view: OwnerView, *, hand_back_after_s: float | None) -> None:
        """From the next look on, which comes at once."""
        self._gates.policy, self._view, self._hand_back_after_s = policy, view, hand_back_after_s
        self._changed.set()

    def plan(self) -> str:
        """Whether the owner's schedule is open, until when and on which clock; empty where there is none."""
        return self._gates.policy.plan(datetime.fromtimestamp(self._spine.clock.wall(), UTC))

    def _apply(self, gates: list[Gate], now: float) -> None:
        wanted = {gate.reason: gate for gate in gates}
        for reason in self._shut.keys() - wanted.keys():
            self._log.info("owner.gone", reason=reason.value)
            self._spine.feed(ev.GateChanged(reason=reason, shut=False))
        for reason, gate in wanted.items():
            if self._shut.get(reason) != gate:
                self._log.info("owner.first", reason=reason.value, detail=gate.detail)
                self._spine.feed(ev.GateChanged(reason=reason, shut=True, detail=gate.detail))
        self._shut = wanted
        self._clear_machine(now)

    def _clear_machine(self, now: float) -> None:
        """Hand back what still runs, when the owner has waited long enough."""
        if not self._shut:
            self._since = None
            return
        self._since = now if self._since is None else self._since
        limit_s = self._hand_back_after_s
        if limit_s is not None and now - self._since >= limit_s and self._spine.node.held():
            self._spine.feed(ev.AbortAsked(reason=next(iter(self._shut))))
