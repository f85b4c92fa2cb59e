"""Protect: what the owner allows of each GPU, held to by every reading: too hot, too hungry, or used by himself."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from agent.core import events as ev
from agent.core.gpu import GpuReport
from agent.core.gpu_policy import GpuGates, GpuPolicy, Others
from agent.stages.spine import Spine


class Protect:
    """Shuts and opens the gates of single GPUs, and clears them when their owner wants them cleared."""

    def __init__(self, spine: Spine, gates: GpuGates, others: Others, *, hand_back_after_s: float | None) -> None:
        """`hand_back_after_s`: how long what runs may go on once a gate is shut; None: to its end."""
        self._spine = spine
        self._gates = gates
        self._others = others
        self._hand_back_after_s = hand_back_after_s
        self._since: dict[tuple[str, ...], float] = {}
        self._report = GpuReport()
        self._log = structlog.get_logger("gpu")

    def see(self, report: GpuReport) -> None:
        """Take in a reading."""
        now, self._report = self._spine.clock.monotonic(), report
        self._tell(self._gates.read(report, self._others, now))
        self._clear(now)

    def obey(self, policy: GpuPolicy, *, hand_back_after_s: float | None) -> None:
        """From now on; the latest reading is judged anew before anything else happens."""
        self._hand_back_after_s = hand_back_after_s
        self._tell(self._gates.obey(policy))
        self.see(self._report)

    def _tell(self, moves: Iterable[ev.DeviceGateChanged]) -> None:
        for moved in moves:
            what = "gpu.gate_shut" if moved.shut else "gpu.gate_open"
            self._log.info(what, uuid=moved.devices[0], reason=moved.reason.value, detail=moved.detail or None)
            self._spine.feed(moved)

    def _clear(self, now: float) -> None:
        """Hand back what still runs where the owner has waited long enough."""
        shut = {gate.devices: gate.reason for gate in reversed(self._gates.shut)}  # the one that shut first speaks
        self._since = {devices: self._since.get(devices, now) for devices in shut}
        limit_s = self._hand_back_after_s
        for devices, reason in shut.items():
            due = limit_s is not None and now - self._since[devices] >= limit_s
            if due and self._spine.node.on_devices(devices):
                self._spine.feed(ev.AbortAsked(reason=reason, devices=devices))
