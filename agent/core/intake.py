"""Whether the node as a whole takes new work: what its owner, its coordinator and its surroundings say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from agent.core import admission
from agent.core import events as ev
from agent.core.devices import Pause
from agent.core.model import Reason
from agent.core.orders import Voice
from agent.core.status import Gate


class NodeState(StrEnum):
    """What the node does about new work."""

    STARTING = "starting"
    """No pool was ready yet."""
    SERVING = "serving"
    PAUSED = "paused"
    DRAINING = "draining"
    DRAINED = "drained"


@dataclass(frozen=True, slots=True)
class Drain:
    """Nothing new, and what runs may end."""

    hand_back_at: float | None
    """When what still runs is handed back, monotonic; None once that is done."""

    def deadlines(self) -> list[float]:
        """When something of it is due."""
        return [] if self.hand_back_at is None else [self.hand_back_at]


class Intake:
    """The node's state, how long it lasts, and the gates from outside. Pools and devices are judged elsewhere.

    Owner and coordinator each may pause it and drain it. The node is open when neither has, and neither takes the
    other's word back; but the owner's resume ends all.
    """

    def __init__(self) -> None:
        self.state = NodeState.STARTING
        self.leaving = False
        """The process ends: no resume opens this again."""
        self._gates: dict[Reason, str] = {}
        self._pauses: dict[Voice, Pause] = {}
        self._drains: dict[Voice, Drain] = {}
        self._ready = False

    @property
    def is_open(self) -> bool:
        """Whether pools that can may take work."""
        return self.state is NodeState.SERVING and not self._gates

    @property
    def is_draining(self) -> bool:
        """Also when that is done."""
        return self.state in (NodeState.DRAINING, NodeState.DRAINED)

    @property
    def is_paused(self) -> bool:
        """Whether the owner paused it, whatever else was asked."""
        return Voice.OWNER in self._pauses

    def refusal(self) -> admission.No | None:
        """Why an offer is declined, whatever it asks."""
        for gate in self.gates():
            return admission.No(reason=gate.reason, detail=gate.detail)
        return None

    def gates(self, now: float | None = None) -> list[Gate]:
        """Every reason against new work, the most telling first; with `now`, a pause tells how long it lasts."""
        found = []
        if self._drains:
            asked = "" if Voice.OWNER in self._drains else ", as the coordinator asked"
            found.append(Gate(reason=Reason.DRAINING, detail=f"finishing what runs, taking nothing new{asked}"))
        if mine := self._pauses.get(Voice.OWNER):
            found.append(Gate(reason=Reason.PAUSED, detail=f"paused {mine.tell(now)}"))
        if its := self._pauses.get(Voice.COORDINATOR):
            detail = f"the coordinator paused this node, until it says otherwise or {its.tell(now)}"
            found.append(Gate(reason=Reason.COORDINATOR_PAUSED, detail=detail))
        return found + [Gate(reason=reason, detail=detail) for reason, detail in self._gates.items()]

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
        pauses, drains = self._pauses.values(), self._drains.values()
        return [at for it in pauses for at in it.deadlines()] + [at for it in drains for at in it.deadlines()]

    def pools_are(self, *, ready: bool) -> list[ev.Command]:
        """Whether any of them is."""
        self._ready = ready
        return self._enter(NodeState.SERVING) if ready and self.state is NodeState.STARTING else []

    def pause(self, by: Voice, pause: Pause) -> list[ev.Command]:
        """Take nothing new. It replaces the voice's pause before; of a drain without one it changes nothing."""
        if by in self._pauses or by not in self._drains:
            self._pauses[by] = pause
        return self._settle()

    def drain(self, event: ev.DrainAsked, now: float) -> list[ev.Command]:
        """Take nothing new; of a voice's two limits the earlier one counts. A pause goes on, and what it lets go of."""
        self.leaving |= event.final
        before = self._drains.get(event.by, Drain(None))
        self._drains[event.by] = Drain(min([now + event.limit_s, *before.deadlines()]))
        return self._settle()

    def resume(self, by: Voice) -> list[ev.Command]:
        """Take back what this voice said; the owner's ends what both did."""
        voices = [it for it in (*self._pauses, *self._drains) if by in (it, Voice.OWNER)]
        if self.leaving or not voices:
            return []
        for voice in voices:
            self._pauses.pop(voice, None)
            self._drains.pop(voice, None)
        return self._settle()

    def hands_back(self, now: float) -> bool:
        """Whether a pause no longer lets go on what runs; true once."""
        due = {by: it for by, it in self._pauses.items() if it.hand_back_at is not None and now >= it.hand_back_at}
        self._pauses.update({by: replace(it, hand_back_at=None) for by, it in due.items()})
        return bool(due)

    def end_pauses(self, now: float) -> list[ev.Command]:
        """Those that have come to the end that they were given."""
        over = [by for by, it in self._pauses.items() if it.until is not None and now >= it.until]
        for by in over:
            del self._pauses[by]
        return self._settle() if over else []

    def drain_is_over(self, now: float) -> bool:
        """Whether a drain has just come to its limit; true once."""
        due = [by for by, it in self._drains.items() if it.hand_back_at is not None and now >= it.hand_back_at]
        self._drains.update(dict.fromkeys(due, Drain(None)))
        return bool(due)

    def drained(self) -> list[ev.Command]:
        """Nothing runs any more."""
        if self.state is not NodeState.DRAINING:
            return []
        self._drains.update(dict.fromkeys(self._drains, Drain(None)))
        return self._enter(NodeState.DRAINED)

    def _enter(self, state: NodeState) -> list[ev.Command]:
        before, self.state = self.state, state
        return [ev.NodeMoved(before=before.value, after=state.value)]

    def _settle(self) -> list[ev.Command]:
        """Into the state that both words make."""
        if self._drains:
            state = self.state if self.is_draining else NodeState.DRAINING
        elif self._pauses:
            state = NodeState.PAUSED
        else:
            state = NodeState.SERVING if self._ready else NodeState.STARTING
        return [] if state is self.state else self._enter(state)
