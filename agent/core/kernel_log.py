"""What the kernel's log says of GPUs: lines of the NVIDIA kernel modules, parsed."""

from __future__ import annotations

import re

from agent.core.gpu import GpuEvent, GpuEventKind
from agent.core.text import plain

LINE_CHARACTERS = 240
_RECORD = re.compile(r"^(\d+),\d+,(\d+),[^;]*;(.*)$")
"""A record of /dev/kmsg: facility and level, sequence, microseconds since boot, flags; the text."""
_KERNEL_LEVELS = 8
"""Facility 0, the kernel itself, has the numbers below. Anybody may log a line through a service; it gets another."""
_XID = re.compile(r"\b(?P<kind>S?Xid) \((?:PCI:)?(?P<pci>[0-9A-Fa-f:.]+)\): (?P<code>\d+)")
_OFF_BUS = re.compile(
    r"\bNVRM: .*?(?P<pci>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-7])?).*fallen off the bus"
)


def gpu_event(record: str) -> GpuEvent | None:
    """The event that one record of /dev/kmsg tells; None for a record of anything else."""
    found = _RECORD.match(record)
    if found is None or int(found[1]) >= _KERNEL_LEVELS:
        return None
    line, boot_s = found[3], int(found[2]) / 1e6
    if xid := _XID.search(line):
        kind = GpuEventKind.SXID if xid["kind"] == "SXid" else GpuEventKind.XID
        return _event(kind, xid["pci"], line, boot_s, int(xid["code"]))
    if lost := _OFF_BUS.search(line):
        return _event(GpuEventKind.FELL_OFF_THE_BUS, lost["pci"], line, boot_s)
    return None


def _event(kind: GpuEventKind, pci: str, line: str, boot_s: float, code: int | None = None) -> GpuEvent:
    text = " ".join(plain(line, LINE_CHARACTERS).split())
    return GpuEvent(kind=kind, source="kernel", pci_bus_id=pci, code=code, text=text, boot_s=boot_s)
