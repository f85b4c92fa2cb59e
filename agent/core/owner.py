"""The owner comes first: whether his own plan, programs and power let the machine work for others now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import lru_cache

from agent.core.model import Reason
from agent.core.schedule import Window, is_open, next_change
from agent.core.status import Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The owner's side of the machine, at one moment."""

    at: datetime
    """With its time zone."""
    programs: frozenset[str] = frozenset()
    """Names of those of his listed programs that run."""
    on_battery: bool | None = None
    """None on a machine without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerPolicy:
    """What the owner allows."""

    zone: tzinfo
    windows: tuple[Window, ...] = ()
    may_use_battery: bool = False

    def gates(self, seen: Observed) -> list[Gate]:
        """Every reason of the owner's against new work now."""
        found = []
        if not is_open(self.windows, seen.at.astimezone(self.zone)):
            found.append(Gate(reason=Reason.OUTSIDE_SCHEDULE, detail=self._until(seen.at)))
        if seen.programs:
            found.append(Gate(reason=Reason.OWNER_PROGRAM, detail="in use: " + ", ".join(sorted(seen.programs))))
        if seen.on_battery and not self.may_use_battery:
            found.append(Gate(reason=Reason.ON_BATTERY, detail="the machine runs on its battery"))
        return found

    def _until(self, now: datetime) -> str:
        opens = _opening(self.windows, now.replace(second=0, microsecond=0), self.zone)
        return f"the owner's schedule opens {opens:%a %H:%M}" if opens else "the owner's schedule never opens"


@lru_cache(maxsize=1)
def _opening(windows: tuple[Window, ...], minute: datetime, zone: tzinfo) -> datetime | None:
    """Looking a week ahead takes some 10 ms: once a minute is enough."""
    return next_change(windows, minute, zone)
