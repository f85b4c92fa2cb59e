"""What the owner does with his machine: his clock, his programs, its battery."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil

from agent.config import OwnerConfig
from agent.core.gpu_policy import GpuPolicy
from agent.core.owner import Observed, OwnerPolicy
from agent.core.schedule import parse_window
from agent.edges import presence

LOCALTIME = Path("/etc/localtime")
PROC = Path("/proc")
HIDDEN = (
    "whether a program of owner.programs runs cannot be told: other users' processes are hidden from the agent; "
    "set ProtectProc=default in a drop-in of its unit"
)


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
        idle_after_s=owner.idle_after_s if owner.idle_only else None,
    )


def gpu_policy(owner: OwnerConfig) -> GpuPolicy:
    """What the configuration allows of each GPU."""
    return GpuPolicy(
        idle_after_s=owner.idle_after_s if owner.idle_only else None,
        display_bytes=owner.display_mib << 20,
        max_temperature_c=owner.max_temperature_c,
        cool_down_c=owner.cool_down_c,
        max_power_w=owner.max_power_w,
        power_margin_w=owner.power_margin_w,
    )


class Machine:
    """Implements ports.OwnerView by psutil and logind."""

    def __init__(self, programs: Collection[str], *, battery: bool, presence: bool = False, proc: Path = PROC) -> None:
        """`battery` and `presence`: whether anybody wants to know of it."""
        self._programs = frozenset(programs)
        self._battery = battery
        self._presence = presence
        self._first = proc / "1"
        """Whose process everybody sees, unless those of others are hidden."""

    def look(self, wall: float) -> Observed:
        """Blocks for some milliseconds where there are many processes and programs are listed; for two seconds where
        the system's bus hangs."""
        away_s, unknown = _away() if self._presence else (None, "")
        return Observed(
            at=datetime.fromtimestamp(wall, UTC),
            programs=self._running() if self._programs else frozenset(),
            hidden=HIDDEN if self._programs and not self._first.exists() else "",
            on_battery=_on_battery() if self._battery else None,
            away_s=away_s,
            unknown=unknown,
        )

    def _running(self) -> frozenset[str]:
        names = {process.info["name"] for process in psutil.process_iter(["name"])}
        return self._programs & {name for name in names if name}


def _away() -> tuple[float | None, str]:
    try:
        return presence.away_s(), ""
    except presence.Unknown as reason:
        return None, str(reason)


def _on_battery() -> bool | None:
    battery = psutil.sensors_battery()
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged
