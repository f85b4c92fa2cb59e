"""NVIDIA cards on the PCI bus, known without any driver of NVIDIA's."""

from __future__ import annotations

from pathlib import Path

from agent.core.gpu import PciGpu

BUS = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAY = "0x03"
"""PCI base class of VGA (0x0300) and 3D (0x0302) controllers; the card's audio function is 0x0403."""
_BARS = 6
"""Lines of `resource` that are the device's own windows; then come its ROM and its bridges'."""
_NOBODY = b"\xff\xff"
"""What a read of the vendor id gives when no device answers it."""


def nvidia_devices(bus: Path = BUS) -> tuple[PciGpu, ...]:
    """NVIDIA display and 3D controllers, by address; empty where there is no PCI bus.

    Asks each one: a read of configuration space that nobody answers may take milliseconds.
    """
    devices = sorted(bus.glob("*"))
    return tuple(
        PciGpu(
            address=device.name,
            driver=_driver(device),
            answers=_answers(device),
            device=_device_id(device),
            bar_bytes=_bars(device),
        )
        for device in devices
        if _is_nvidia_gpu(device)
    )


def _is_nvidia_gpu(device: Path) -> bool:
    """By what the kernel read when it found the device: that outlasts one that no longer answers."""
    try:
        vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
    except OSError:
        return False
    return vendor == _NVIDIA and kind.startswith(_DISPLAY)


def _driver(device: Path) -> str | None:
    try:
        return (device / "driver").readlink().name
    except OSError:
        return None


def _answers(device: Path) -> bool:
    """Whether it tells its vendor now. A configuration space that cannot be read is no sign of either."""
    try:
        with (device / "config").open("rb", buffering=0) as config:
            return config.read(2) != _NOBODY
    except OSError:
        return True


def _device_id(device: Path) -> str:
    try:
        return (device / "device").read_text().strip().removeprefix("0x")
    except OSError:
        return ""


def _bars(device: Path) -> tuple[int, ...]:
    """Of each window that is there: its first and last address stand in a line, with flags behind."""
    try:
        lines = (device / "resource").read_text().splitlines()[:_BARS]
        ends = [[int(word, 16) for word in line.split()[:2]] for line in lines]
    except (OSError, ValueError):
        return ()
    return tuple(last - first + 1 for first, last in ends if last)
