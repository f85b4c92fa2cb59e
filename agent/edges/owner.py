"""What the owner does with his machine: his clock, his programs, its battery."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil

from agent.config import OwnerConfig
from agent.core.owner import Observed, OwnerPolicy
from agent.core.schedule import parse_window

LOCALTIME = Path("/etc/localtime")


def owner_zone(name: str | None, localtime: Path = LOCALTIME) -> tzinfo:
    """The zone of this name, or the machine's own without one; the configuration has checked that it exists."""
    if name:
        return ZoneInfo(name)
    try:
        with localtime.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (OSError, ValueError):  # a machine without a zone runs on UTC
        return UTC


def owner_policy(owner: OwnerConfig) -> OwnerPolicy:
    """What the configuration allows; its windows and zone were checked when it was read."""
    return OwnerPolicy(
        zone=owner_zone(owner.time_zone),
        windows=tuple(map(parse_window, owner.schedule)),
        may_use_battery=owner.on_battery,
    )


class Machine:
    """Implements ports.OwnerView by psutil."""

    def __init__(self, programs: Collection[str], *, battery: bool) -> None:
        """`battery`: whether anybody wants to know of it."""
        self._programs = frozenset(programs)
        self._battery = battery

    def look(self, wall: float) -> Observed:
        """Blocks for some milliseconds where there are many processes and programs are listed."""
        return Observed(
            at=datetime.fromtimestamp(wall, UTC),
            programs=self._running() if self._programs else frozenset(),
            on_battery=_on_battery() if self._battery else None,
        )

    def _running(self) -> frozenset[str]:
        names = {process.info["name"] for process in psutil.process_iter(["name"])}
        return self._programs & {name for name in names if name}


def _on_battery() -> bool | None:
    battery = psutil.sensors_battery()
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged
