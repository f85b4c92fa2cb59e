"""What is wrong with a GPU, as its readings and events tell it. Each rule is a row of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from agent.core.gpu import Gpu, GpuEvent, GpuEventKind, GpuFault, Throttle
from agent.core.model import Value
from agent.core.xids import Bucket, Xid

LOADED_PERCENT = 50
"""Utilisation from which a PCIe link has to run at full width: an idle card slows it down to save power."""


class Severity(StrEnum):
    """What a finding does to the GPU's state."""

    DEGRADES = "degrades"
    """What runs may finish; nothing new is taken."""
    LOSES = "loses"
    """What runs there is handed back at once."""


class Advice(StrEnum):
    """What the owner can do. The agent itself never resets or reboots anything."""

    WATCH = "watch"
    RESET = "reset"
    REBOOT = "reboot"
    INSPECT = "inspect"


class Finding(Value):
    """One thing that is wrong."""

    code: str
    """Stable word, such as `remap_pending` or `xid_79`."""
    severity: Severity
    gpu_uuid: str
    evidence: str
    """The reading or line that shows it."""
    advice: Advice
    source: str
    """`nvml`, `kernel`, `pci` or `disk`."""
    lasts: bool = False
    """Stays until the driver, a reset or a reboot says otherwise; others go with the reading that shows them."""
    boot_id: str = ""
    since_at: float = 0.0
    """Unix seconds when it was first seen."""


class Rule(NamedTuple):
    """A finding that a reading shows for as long as it holds."""

    code: str
    severity: Severity
    advice: Advice
    shown_by: Callable[[Gpu], str]
    """Evidence; empty when there is none."""


_RECOVERY: Final = {1: (Advice.RESET, "reset"), 2: (Advice.REBOOT, "reboot")}
_RECOVERY_OTHER = (Advice.RESET, "drain and reset")


def _fault(*faults: GpuFault) -> Callable[[Gpu], str]:
    return lambda gpu: (gpu.detail or gpu.fault.value) if gpu.fault in faults else ""


def _remap_pending(gpu: Gpu) -> str:
    return "rows of memory wait to be remapped by a reset" if gpu.condition.remap_pending else ""


def _remap_failed(gpu: Gpu) -> str:
    return "a row of memory could not be remapped: no spare rows are left" if gpu.condition.remap_failed else ""


def _uncorrected(gpu: Gpu) -> str:
    count = gpu.condition.ecc_uncorrected
    return f"{count} double-bit memory errors since the driver was loaded" if count else ""


def _fabric(gpu: Gpu) -> str:
    return "the NVLink fabric is not complete" if gpu.condition.fabric_state in (1, 2) else ""


def _recovery(gpu: Gpu) -> str:
    action = gpu.condition.recovery_action
    return f"the driver asks for: {_RECOVERY.get(action, _RECOVERY_OTHER)[1]}" if action else ""


def _narrow_link(gpu: Gpu) -> str:
    now, load = gpu.condition, gpu.sample.utilisation_percent
    if load is None or load < LOADED_PERCENT:
        return ""
    for name, is_, could in (
        ("generation", now.pcie_generation, gpu.pcie_generation_max),
        ("lanes", now.pcie_width, gpu.pcie_width_max),
    ):
        if is_ is not None and could is not None and is_ < could:
            return f"PCIe {name} {is_} of {could} at {load} % load"
    return ""


_D, _L = Severity.DEGRADES, Severity.LOSES
RULES: Final = (
    Rule("gpu_lost", _L, Advice.REBOOT, _fault(GpuFault.GPU_LOST)),
    Rule("needs_reset", _L, Advice.RESET, _fault(GpuFault.GPU_NEEDS_RESET)),
    Rule("recovery_action", _L, Advice.RESET, _recovery),
    Rule("remap_failed", _L, Advice.INSPECT, _remap_failed),
    Rule("driver_unresponsive", _D, Advice.REBOOT, _fault(GpuFault.DRIVER_UNRESPONSIVE)),
    Rule("driver_mismatch", _D, Advice.REBOOT, _fault(GpuFault.DRIVER_MISMATCH)),
    Rule("remap_pending", _D, Advice.RESET, _remap_pending),
    Rule("ecc_uncorrected", _D, Advice.RESET, _uncorrected),
    Rule("fabric_incomplete", _D, Advice.INSPECT, _fabric),
    Rule("link_narrow", _D, Advice.INSPECT, _narrow_link),
)
"""In the order in which they are told. Idle clocks, a slow idle link, a software power cap and fields that a card does
not have are no faults."""

HARD_SLOWDOWN = Throttle.HARDWARE_SLOWDOWN | Throttle.HARDWARE_THERMAL | Throttle.HARDWARE_POWER_BRAKE


def shown(gpu: Gpu) -> Iterable[Finding]:
    """What this reading shows."""
    for rule in RULES:
        if evidence := rule.shown_by(gpu):
            advice = rule.advice
            if rule.code == "recovery_action":
                advice = _RECOVERY.get(gpu.condition.recovery_action or 0, _RECOVERY_OTHER)[0]
            yield Finding(
                code=rule.code,
                severity=rule.severity,
                gpu_uuid=gpu.uuid,
                evidence=evidence,
                advice=advice,
                source="nvml",
            )


def replaced(uuid: str, evidence: str) -> Finding:
    """The driver on the disk is another one than runs: what runs goes on with what it has loaded, and what starts now
    cannot use the GPU."""
    return Finding(
        code="driver_replaced",
        severity=Severity.DEGRADES,
        gpu_uuid=uuid,
        evidence=evidence,
        advice=Advice.REBOOT,
        source="disk",
    )


_XID_SAYS: Final = {
    Bucket.CHECK: (Severity.DEGRADES, Advice.INSPECT),
    Bucket.RESET_GPU: (Severity.LOSES, Advice.RESET),
    Bucket.RESTART_MACHINE: (Severity.LOSES, Advice.REBOOT),
}


def told_by(event: GpuEvent, uuid: str, xid: Xid | None) -> Finding | None:
    """What an event of this GPU means; `xid` is its entry in the table. None for what says nothing of the card."""
    if event.kind is GpuEventKind.FELL_OFF_THE_BUS:
        return _lasting("fell_off_the_bus", Severity.LOSES, Advice.REBOOT, event, uuid, event.text)
    if event.kind is GpuEventKind.ECC_DOUBLE_BIT:
        return _lasting("ecc_double_bit", Severity.DEGRADES, Advice.RESET, event, uuid, "a double-bit memory error")
    if xid is None or xid.bucket not in _XID_SAYS:
        return None
    severity, advice = _XID_SAYS[xid.bucket]
    return _lasting(f"xid_{xid.code}", severity, advice, event, uuid, event.text or f"Xid {xid.code}: {xid.text}")


def _lasting(code: str, severity: Severity, advice: Advice, event: GpuEvent, uuid: str, evidence: str) -> Finding:
    return Finding(
        code=code, severity=severity, gpu_uuid=uuid, evidence=evidence, advice=advice, source=event.source, lasts=True
    )
