"""Whether the node as a whole takes new work: what its owner, its coordinator and its surroundings say."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from agent.core import admission
from agent.core import events as ev
from agent.core.devices import Pause
from agent.core.model import Reason
from agent.core.status import Gate


class NodeState(StrEnum):
    """What the node does about new work."""

    STARTING = "starting"
    """No pool was ready yet."""
    SERVING = "serving"
    PAUSED = "paused"
    DRAINING = "draining"
    DRAINED = "drained"


class Intake:
    """The node's state, how long it lasts, and the gates from outside. Pools and devices are judged elsewhere."""

    def __init__(self) -> None:
        self.state = NodeState.STARTING
        self.leaving = False
        """The process ends: no resume opens this again."""
        self._gates: dict[Reason, str] = {}
        self._drain_deadline: float | None = None
        self._pause: Pause | None = None

    @property
    def is_open(self) -> bool:
        """Whether pools that can may take work."""
        return self.state is NodeState.SERVING and not self._gates

    @property
    def is_draining(self) -> bool:
        """Also when that is done."""
        return self.state in (NodeState.DRAINING, NodeState.DRAINED)

    def refusal(self) -> admission.No | None:
        """Why an offer is declined, whatever it asks."""
        if self.is_draining:
            return admission.No(reason=Reason.DRAINING, detail="the node is draining")
        if self.state is NodeState.PAUSED:
            return admission.No(reason=Reason.PAUSED, detail="the node is paused")
        for reason, detail in self._gates.items():
            return admission.No(reason=reason, detail=detail)
        return None

    def gates(self, now: float | None = None) -> list[Gate]:
        """Every reason against new work, the most telling first; with `now`, a pause tells how long it lasts."""
        found = [Gate(reason=reason, detail=detail) for reason, detail in self._gates.items()]
        if self.is_draining:
            found.insert(0, Gate(reason=Reason.DRAINING, detail="finishing what runs, taking nothing new"))
        if self.state is NodeState.PAUSED:
            found.insert(0, Gate(reason=Reason.PAUSED, detail=f"paused {(self._pause or Pause()).tell(now)}"))
        return found

    def reasons(self) -> frozenset[Reason]:
        """Why the node takes nothing, without the words."""
        return frozenset(gate.reason for gate in self.gates())

    def is_shut(self, reason: Reason) -> bool:
        """Whether this gate from outside is shut."""
        return reason in self._gates

    def gate(self, event: ev.GateChanged) -> None:
        """Shut or open a gate from outside."""
        if event.shut:
            self._gates[event.reason] = event.detail
        else:
            self._gates.pop(event.reason, None)

    def deadlines(self) -> list[float]:
        """When something here ends by itself, monotonic."""
        drain = [] if self._drain_deadline is None else [self._drain_deadline]
        return drain + (self._pause.deadlines() if self._pause else [])

    def pause(self, pause: Pause) -> list[ev.Command]:
        """Take nothing new. A pause replaces the one before; a drain, which takes nothing either, goes on."""
        if self.is_draining:
            return []
        moved = [] if self.state is NodeState.PAUSED else self.enter(NodeState.PAUSED)
        self._pause = pause
        return moved

    def hands_back(self, now: float) -> bool:
        """Whether the pause no longer lets go on what runs; true once."""
        at = self._pause.hand_back_at if self._pause else None
        if self._pause is None or at is None or now < at:
            return False
        self._pause = replace(self._pause, hand_back_at=None)
        return True

    def pause_is_over(self, now: float) -> bool:
        """Whether the pause has come to the end that it was given."""
        return self._pause is not None and self._pause.until is not None and now >= self._pause.until

    def drain(self, event: ev.DrainAsked, now: float) -> list[ev.Command]:
        """Take nothing new; of two limits the earlier one counts."""
        deadline = now + event.limit_s
        self.leaving |= event.final
        if self.is_draining:
            self._drain_deadline = min(self._drain_deadline or deadline, deadline)
            return []
        self._drain_deadline = deadline
        return self.enter(NodeState.DRAINING)

    def drain_is_over(self, now: float) -> bool:
        """Whether the drain has just come to its limit; true once."""
        if self._drain_deadline is None or now < self._drain_deadline:
            return False
        self._drain_deadline = None
        return True

    def drained(self) -> list[ev.Command]:
        """Nothing runs any more."""
        if self.state is not NodeState.DRAINING:
            return []
        self._drain_deadline = None
        return self.enter(NodeState.DRAINED)

    def reopen(self, *, ready: bool) -> list[ev.Command]:
        """End a pause or a drain; `ready`: whether any pool is."""
        if self.leaving or self.state in (NodeState.STARTING, NodeState.SERVING):
            return []
        self._drain_deadline = None
        return self.enter(NodeState.SERVING if ready else NodeState.STARTING)

    def enter(self, state: NodeState) -> list[ev.Command]:
        """Change the state."""
        before, self.state, self._pause = self.state, state, None
        return [ev.NodeMoved(before=before.value, after=state.value)]
