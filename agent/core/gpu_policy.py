"""What the owner allows of each GPU: how hot, how hungry, and whether he uses it himself. Readings in, gates out.

A gate that a reading shuts opens only well below its limit, so that a reading that trembles moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agent.core.events import DeviceGateChanged
from agent.core.gpu import Gpu, GpuProcess, GpuReport
from agent.core.model import Reason
from agent.core.text import span

Others = Callable[[Collection[int]], Collection[int]]
"""Of these processes, those that are neither the agent nor any of its engines and programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPolicy:
    """Limits; None where the owner set none."""

    idle_after_s: float | None = None
    """A GPU that the owner used takes work after so long without; None: his use of it keeps nothing out."""
    display_bytes: int = 0
    """Memory up to which a program that draws is the desktop's and no use of the GPU."""
    max_temperature_c: float | None = None
    cool_down_c: float = 0.0
    """Below the limit, where work comes again."""
    max_power_w: float | None = None
    power_margin_w: float = 0.0

    def rule(self, reason: Reason) -> tuple[float | None, ...]:
        """All that a gate of this reason rests on."""
        return {
            Reason.GPU_HOT: (self.max_temperature_c, self.cool_down_c),
            Reason.GPU_POWER: (self.max_power_w, self.power_margin_w),
            Reason.GPU_IN_USE: (self.idle_after_s, self.display_bytes),
        }[reason]


class Unit(NamedTuple):
    """What pools are placed on: a GPU with all its slices, or one slice."""

    devices: tuple[str, ...]
    users: tuple[GpuProcess, ...] | None
    """None while the driver does not tell them."""


def crossed(shut: bool, value: float | None, limit: float, margin: float) -> bool:
    """Whether the gate is shut from now on. What is not told changes nothing."""
    if value is None:
        return shut
    return value > limit - margin if shut else value > limit


class GpuGates:
    """The gates of all GPUs. Time is passed in."""

    def __init__(self, policy: GpuPolicy, lent: Iterable[str] = ()) -> None:
        """`lent`: devices of external engines, where programs that compute and are not ours are expected."""
        self._policy = policy
        self._lent = frozenset(lent)
        self._shut: dict[tuple[str, Reason], DeviceGateChanged] = {}
        self._used_at: dict[str, float] = {}

    @property
    def shut(self) -> tuple[DeviceGateChanged, ...]:
        """What keeps work out now."""
        return tuple(self._shut.values())

    def obey(self, policy: GpuPolicy) -> list[DeviceGateChanged]:
        """From now on. Returns what opens: gates by a rule that is another now; the next reading judges anew."""
        void = [gate for gate in self.shut if policy.rule(gate.reason) != self._policy.rule(gate.reason)]
        self._policy = policy
        opened = [DeviceGateChanged(devices=gate.devices, reason=gate.reason, shut=False) for gate in void]
        return [gate for gate in opened if self._moves(gate)]

    def read(self, report: GpuReport, others: Others, now: float) -> list[DeviceGateChanged]:
        """Take in a snapshot; returns what moved. `now` is monotonic."""
        wanted = [gate for gpu in report.gpus for gate in self._judged(gpu, others, now)]
        return [gate for gate in wanted if self._moves(gate)]

    def _moves(self, gate: DeviceGateChanged) -> bool:
        key = (gate.devices[0], gate.reason)
        if gate.shut is (key in self._shut):
            return False
        if gate.shut:
            self._shut[key] = gate
        else:
            del self._shut[key]
        return True

    def _judged(self, gpu: Gpu, others: Others, now: float) -> Iterator[DeviceGateChanged]:
        devices, policy = (gpu.uuid, *(part.uuid for part in gpu.mig)), self._policy
        if policy.max_temperature_c is not None:
            yield self._hot(gpu, devices, policy.max_temperature_c)
        if policy.max_power_w is not None:
            yield self._hungry(gpu, devices, policy.max_power_w)
        if policy.idle_after_s is not None:
            for unit in units_of(gpu):
                yield self._used(unit, others, now, policy.idle_after_s)

    def _hot(self, gpu: Gpu, devices: tuple[str, ...], limit: float) -> DeviceGateChanged:
        value, margin = gpu.sample.temperature_c, self._policy.cool_down_c
        shut = crossed((gpu.uuid, Reason.GPU_HOT) in self._shut, value, limit, margin)
        detail = f"{value} °C, above the {limit:g} that its owner allows; work comes again at {limit - margin:g} °C"
        return DeviceGateChanged(devices=devices, reason=Reason.GPU_HOT, shut=shut, detail=detail if shut else "")

    def _hungry(self, gpu: Gpu, devices: tuple[str, ...], limit: float) -> DeviceGateChanged:
        value, margin = gpu.sample.power_mw, self._policy.power_margin_w
        watts = None if value is None else value / 1000
        shut = crossed((gpu.uuid, Reason.GPU_POWER) in self._shut, watts, limit, margin)
        detail = (
            f"{watts or 0:.0f} W, above the {limit:g} that its owner allows; work comes again at {limit - margin:g} W"
        )
        return DeviceGateChanged(devices=devices, reason=Reason.GPU_POWER, shut=shut, detail=detail if shut else "")

    def _used(self, unit: Unit, others: Others, now: float, idle_after_s: float) -> DeviceGateChanged:
        name = unit.devices[0]
        uses = self._uses_of_others(unit, others)
        if uses:
            self._used_at[name] = now
        shut = (name, Reason.GPU_IN_USE) in self._shut
        if unit.users is not None:  # what is not told changes nothing
            shut = name in self._used_at and (bool(uses) or now - self._used_at[name] < idle_after_s)
        return DeviceGateChanged(
            devices=unit.devices, reason=Reason.GPU_IN_USE, shut=shut, detail=_told(uses, idle_after_s) if shut else ""
        )

    def _uses_of_others(self, unit: Unit, others: Others) -> list[GpuProcess]:
        uses = [user for user in unit.users or () if self._is_use(user, unit.devices)]
        strangers = set(others([user.pid for user in uses])) if uses else set()
        return [user for user in uses if user.pid in strangers]

    def _is_use(self, user: GpuProcess, devices: Iterable[str]) -> bool:
        if "graphics" in user.kinds:
            return (user.memory_bytes or 0) > self._policy.display_bytes
        return self._lent.isdisjoint(devices)


def units_of(gpu: Gpu) -> Iterator[Unit]:
    """A GPU that is cut is its slices; the driver lists their processes with the card."""
    known = gpu.fault is None and gpu.sample.processes is not None
    users = gpu.sample.users
    if not gpu.mig:
        yield Unit((gpu.uuid,), users if known else None)
    for part in gpu.mig:
        mine = tuple(user for user in users if user.gpu_instance == part.gpu_instance)
        yield Unit((part.uuid,), mine if known else None)


def _told(uses: Collection[GpuProcess], idle_after_s: float) -> str:
    again = f"work comes after {span(idle_after_s)} without"
    if not uses:
        return f"a program of its owner's used it; {again}"
    most = max(uses, key=lambda user: user.memory_bytes or 0)
    held = "" if most.memory_bytes is None else f" with {most.memory_bytes >> 20:,} MiB"
    more = f" and {len(uses) - 1} more" if len(uses) > 1 else ""
    return f"a program of its owner's uses it (process {most.pid}{held}{more}); {again}"
