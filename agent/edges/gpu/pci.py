"""NVIDIA cards on the PCI bus, known without any driver."""

from __future__ import annotations

from pathlib import Path

_NVIDIA = "0x10de"
_DISPLAY = "0x03"
"""PCI base class of VGA (0x0300) and 3D (0x0302) controllers; the card's audio function is 0x0403."""


def nvidia_devices(bus: Path = Path("/sys/bus/pci/devices")) -> list[str]:
    """PCI addresses of NVIDIA display and 3D controllers, such as `0000:01:00.0`; empty where there is no PCI bus."""
    return sorted(device.name for device in bus.glob("*") if _is_nvidia_gpu(device))


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
    except OSError:
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY)
