"""What keeps pools off a GPU or MIG slice: that it is not well, or that its owner wants it otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.core.fingerprint import Pool
from agent.core.health import HealthState
from agent.core.model import Reason
from agent.core.status import Gate
from agent.core.text import span

_NOT_WELL = {
    HealthState.LOST: Reason.GPU_LOST,
    HealthState.DEGRADED: Reason.GPU_DEGRADED,
    HealthState.UNKNOWN: Reason.GPU_UNKNOWN,
}
"""The gravest first."""


class _Judged(NamedTuple):
    state: HealthState
    detail: str


@dataclass(frozen=True, slots=True)
class Pause:
    """No new work, until somebody ends it or by itself at `until` (monotonic)."""

    until: float | None = None
    hand_back_at: float | None = None
    """When what still runs is handed back, monotonic; None: never."""
    why: str = ""
    """In plain words, when its owner did not say so."""

    def deadlines(self) -> list[float]:
        """When something of it is due."""
        return [time for time in (self.until, self.hand_back_at) if time is not None]

    def tell(self, now: float | None) -> str:
        """How it ends, in words."""
        if self.until is None or now is None:
            return "until `gpu-agent resume`" + (f": {self.why}" if self.why else "")
        return f"for another {span(self.until - now)}, or until `gpu-agent resume`"


class Devices:
    """All that the node was told of its devices, by UUID. One that nobody judges is trusted."""

    def __init__(self) -> None:
        self._judged: dict[str, _Judged] = {}
        self.paused: dict[str, Pause] = {}
        self._shut: dict[str, dict[Reason, str]] = {}

    def judge(self, devices: Iterable[str], state: HealthState, detail: str) -> None:
        """Their health from now on."""
        self._judged.update(dict.fromkeys(devices, _Judged(state, detail)))

    def gate(self, devices: Iterable[str], reason: Reason, detail: str, *, shut: bool) -> None:
        """Shut or open a gate of these devices for `reason`."""
        for uuid in devices:
            gates = self._shut.setdefault(uuid, {})
            gates.pop(reason, None)
            if shut:
                gates[reason] = detail

    def reasons(self, uuids: Iterable[str]) -> frozenset[Reason]:
        """Why their owner wants these devices for himself, or rested."""
        found = {reason for uuid in uuids for reason in self._shut.get(uuid, ())}
        return frozenset(found | ({Reason.PAUSED} if any(uuid in self.paused for uuid in uuids) else set()))

    def pause(self, devices: Iterable[str], pause: Pause) -> None:
        """A later pause replaces an earlier one."""
        self.paused.update(dict.fromkeys(devices, pause))

    def resume(self, devices: Iterable[str] = ()) -> tuple[str, ...]:
        """End their pauses, or all; returns whose ended."""
        ended = tuple(uuid for uuid in devices if uuid in self.paused) if devices else tuple(self.paused)
        for uuid in ended:
            del self.paused[uuid]
        return ended

    def tick(self, now: float) -> tuple[str, ...]:
        """End the pauses that are over; returns whose."""
        over = [uuid for uuid, pause in self.paused.items() if pause.until is not None and now >= pause.until]
        return self.resume(over) if over else ()

    def deadlines(self) -> list[float]:
        """When pauses end by themselves, monotonic."""
        return [time for pause in self.paused.values() for time in pause.deadlines()]

    def handed_back(self, now: float) -> tuple[str, ...]:
        """Devices whose pause no longer lets go on what runs; each is named once."""
        due = [uuid for uuid, it in self.paused.items() if it.hand_back_at is not None and now >= it.hand_back_at]
        self.paused.update({uuid: replace(self.paused[uuid], hand_back_at=None) for uuid in due})
        return tuple(due)

    def open_to(self, pool: Pool) -> bool:
        """Whether nothing of its devices keeps the pool from taking work."""
        return not self.gates(pool)

    def gates(self, pool: Pool, now: float | None = None) -> list[Gate]:
        """Why the devices of a pool may not take work; of those that are not well, the worst one speaks."""
        uuids = uuids_of(pool)
        found = [
            Gate(reason=Reason.PAUSED, detail=f"{pool.name}: {uuid} is paused {self.paused[uuid].tell(now)}")
            for uuid in uuids
            if uuid in self.paused
        ]
        found += [
            Gate(reason=reason, detail=f"{pool.name}: {uuid}: {detail}")
            for uuid in uuids
            for reason, detail in self._shut.get(uuid, {}).items()
        ]
        known = [(uuid, self._judged[uuid]) for uuid in uuids if uuid in self._judged]
        for state, reason in _NOT_WELL.items():
            for uuid, judged in known:
                if judged.state is state:
                    detail = f"{pool.name}: {uuid}: {judged.detail or state.value}"
                    return [*found, Gate(reason=reason, detail=detail)]
        return found


def uuids_of(pool: Pool) -> list[str]:
    """Its devices; of a pool on the processor `cpu`."""
    return pool.device.split("+")
