"""What the owner does with his machine: his clock, his programs, its battery."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from agent.config import OwnerConfig
from agent.core.gpu_policy import GpuPolicy
from agent.core.owner import Observed, OwnerPolicy
from agent.core.schedule import parse_window
from agent.edges import presence

LOCALTIME = Path("/etc/localtime")
PROC = Path("/proc")
SUPPLIES = Path("/sys/class/power_supply")
HIDDEN = (
    "whether a program of owner.programs runs cannot be told: other users' processes are hidden from the agent; "
    "set ProtectProc=default in a drop-in of its unit"
)


def owner_zone(name: str | None, localtime: Path = LOCALTIME) -> tzinfo:
    """The zone of this name, or the machine's own without one; the configuration has checked that it exists."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415  (only an owner with a schedule has it and its tables in memory)

    if name:
        return ZoneInfo(name)
    try:
        with localtime.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (OSError, ValueError):  # a machine without a zone runs on UTC
        return UTC


def owner_clock(name: str | None, localtime: Path = LOCALTIME) -> str:
    """What the zone is called on whose clock the schedule is read, and by whom."""
    if name:
        return name
    _, _, own = str(localtime.resolve()).partition("/zoneinfo/")
    if own:
        return f"{own} (this machine's own)"
    return f"this machine ({datetime.now(owner_zone(None, localtime)):%Z})"


def owner_policy(owner: OwnerConfig) -> OwnerPolicy:
    """What the configuration allows; its windows and zone were checked when it was read."""
    return OwnerPolicy(
        zone=owner_zone(owner.time_zone) if owner.schedule else UTC,
        clock=owner_clock(owner.time_zone) if owner.schedule else "",
        windows=tuple(map(parse_window, owner.schedule)),
        programs_after_s=owner.programs_after_s,
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
    """Implements ports.OwnerView by psutil, sysfs and logind."""

    def __init__(
        self,
        programs: Collection[str],
        *,
        battery: bool,
        presence: bool = False,
        proc: Path = PROC,
        supplies: Path = SUPPLIES,
    ) -> None:
        """`battery` and `presence`: whether anybody wants to know of it."""
        self._programs = frozenset(programs)
        self._battery = battery
        self._presence = presence
        self._supplies = supplies
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
            on_battery=on_battery(self._supplies) if self._battery else None,
            away_s=away_s,
            unknown=unknown,
        )

    def _running(self) -> frozenset[str]:
        import psutil  # noqa: PLC0415  (only an owner who lists programs has it in memory)

        names = {process.info["name"] for process in psutil.process_iter(["name"])}
        return self._programs & {name for name in names if name}


def _away() -> tuple[float | None, str]:
    try:
        return presence.away_s(), ""
    except presence.Unknown as reason:
        return None, str(reason)


def on_battery(supplies: Path) -> bool | None:
    """Whether this machine draws on its battery, by /sys/class/power_supply; None for one without."""
    mains, batteries = [], []
    for supply in supplies.glob("*"):
        kind = _told(supply, "type")
        if kind == "Mains":
            mains.append(_told(supply, "online"))
        elif kind == "Battery" and _told(supply, "scope") != "Device":  # those of mice and keyboards
            batteries.append(_told(supply, "status"))
    if not batteries:
        return None
    return "1" not in mains if mains else "Discharging" in batteries


def _told(supply: Path, name: str) -> str:
    """Empty where the driver does not say."""
    try:
        return (supply / name).read_text().strip()
    except OSError:
        return ""
