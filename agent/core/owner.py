"""The owner comes first: whether his own plan, programs and power let the machine work for others now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from functools import lru_cache

from agent.core.model import Reason
from agent.core.schedule import Window, is_open, next_change
from agent.core.status import Gate
from agent.core.text import span


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The owner's side of the machine, at one moment."""

    at: datetime
    """With its time zone."""
    programs: frozenset[str] = frozenset()
    """Names of those of his listed programs that run."""
    hidden: str = ""
    """Why his programs cannot be seen, where some are listed."""
    on_battery: bool | None = None
    """None on a machine without one."""
    away_s: float | None = None
    """For how long nobody has been at the machine, 0 while somebody is; None when that is not known."""
    unknown: str = ""
    """Why it is not known, where it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerPolicy:
    """What the owner allows."""

    zone: tzinfo
    clock: str = ""
    """What that zone is called, and by whom."""
    windows: tuple[Window, ...] = ()
    programs_after_s: float = 0.0
    """Work comes so long after the last of his programs has ended."""
    may_use_battery: bool = False
    idle_after_s: float | None = None
    """Work comes once nobody has been at the machine for so long; None: whether or not somebody is."""

    def gates(self, seen: Observed) -> list[Gate]:
        """Every reason of the owner's against new work now."""
        found = []
        if not is_open(self.windows, seen.at.astimezone(self.zone)):
            found.append(Gate(reason=Reason.OUTSIDE_SCHEDULE, detail=self._until(seen.at)))
        if seen.programs:
            found.append(Gate(reason=Reason.OWNER_PROGRAM, detail=self._in_use(seen.programs)))
        elif seen.hidden:  # what is not known keeps work out, since the owner comes first
            found.append(Gate(reason=Reason.OWNER_PROGRAM, detail=seen.hidden))
        if self.idle_after_s is not None and (why := self._presence(seen, self.idle_after_s)):
            found.append(Gate(reason=Reason.OWNER_ACTIVE, detail=why))
        if seen.on_battery and not self.may_use_battery:
            found.append(Gate(reason=Reason.ON_BATTERY, detail="the machine runs on its battery"))
        return found

    def plan(self, now: datetime) -> str:
        """Of his schedule, in words; empty where he has none."""
        if not self.windows:
            return ""
        change = _next_change(self.windows, now.replace(second=0, microsecond=0), self.zone)
        state = "open" if is_open(self.windows, now.astimezone(self.zone)) else "shut"
        return f"{state} {f'until {change:%a %H:%M}' if change else 'always'}, on the clock of {self.clock}"

    def _in_use(self, programs: Iterable[str]) -> str:
        rest = f"; work comes {span(self.programs_after_s)} after their end" if self.programs_after_s else ""
        return f"in use: {', '.join(sorted(programs))}{rest}"

    def _presence(self, seen: Observed, idle_after_s: float) -> str:
        """The same words for as long as it lasts; what is not known keeps work out, since the owner comes first."""
        if seen.away_s is None:
            return f"whether somebody is at the machine cannot be told: {seen.unknown or 'nobody asked'}"
        if seen.away_s >= idle_after_s:
            return ""
        return f"somebody is at the machine; work comes {span(idle_after_s)} after the last sign of that"

    def _until(self, now: datetime) -> str:
        opens = _next_change(self.windows, now.replace(second=0, microsecond=0), self.zone)
        clock = f" ({self.clock})" if self.clock else ""
        return f"the owner's schedule opens {opens:%a %H:%M}{clock}" if opens else "the owner's schedule never opens"


class OwnerGates:
    """The policy over time: a program that comes and goes, such as a compiler, is in use all the while. Time is passed
    in, monotonic seconds."""

    def __init__(self, policy: OwnerPolicy) -> None:
        self.policy = policy
        """May be replaced; what was in use stays so for as long as the new one says."""
        self._seen_at: dict[str, float] = {}

    def read(self, seen: Observed, now: float) -> list[Gate]:
        """Every reason of the owner's against new work now."""
        after_s = self.policy.programs_after_s
        lately = {name: at for name, at in self._seen_at.items() if now - at < after_s}
        self._seen_at = lately | dict.fromkeys(seen.programs, now)
        return self.policy.gates(replace(seen, programs=frozenset(self._seen_at)))


@lru_cache(maxsize=1)
def _next_change(windows: tuple[Window, ...], minute: datetime, zone: tzinfo) -> datetime | None:
    """Looking a week ahead takes some 10 ms: once a minute is enough."""
    return next_change(windows, minute, zone)
