"""What is known of GPUs without asking their driver, which may be silent, wrong, or replaced on the disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from agent.core.gpu import Gpu, GpuFault, GpuReport, KernelFacts, PciGpu, bus_address
from agent.core.model import Value


class Surroundings(Value):
    """What is known of GPUs without asking their driver."""

    bus: tuple[PciGpu, ...] = ()
    module: str = ""
    installed: str = ""
    kernel: KernelFacts | None = None


def with_surroundings(report: GpuReport, around: Surroundings, seen: Collection[str] = ()) -> GpuReport:
    """`report` with what the kernel knows: a GPU may be gone from the bus while the driver hangs or still counts it.

    `seen`: addresses (`bus_address`) that the bus listed before. A GPU that it never listed, as in a virtual machine
    or container without the bus, is not judged by it.
    """
    here = {bus_address(device.address): device for device in around.bus}
    gpus = tuple(_on_bus(gpu, here, seen) for gpu in report.gpus)
    told = {name: getattr(around, name) for name in ("bus", "module", "installed", "kernel")}
    return replace(report, gpus=gpus, **told)


def _on_bus(gpu: Gpu, here: Mapping[str, PciGpu], seen: Collection[str]) -> Gpu:
    address = bus_address(gpu.pci_bus_id)
    if address in here and here[address].answers:
        return gpu
    if address in here:
        detail = (
            f"The GPU no longer answers on the PCI bus ({address}). Reboot; if it comes back, check power and seating"
        )
    elif address and address in seen:
        detail = f"The GPU is gone from the PCI bus ({address}). Check its power and seating, then reboot"
    else:
        return gpu
    return replace(gpu, fault=GpuFault.GPU_LOST, detail=detail)


def unlisted(report: GpuReport) -> tuple[PciGpu, ...]:
    """Cards on the bus that the NVIDIA driver holds and does not list. In a container others' cards look the same."""
    listed = {bus_address(gpu.pci_bus_id) for gpu in report.gpus}
    held = (device for device in report.bus if device.driver == "nvidia")
    return tuple(device for device in held if bus_address(device.address) not in listed)


def driver_change(report: GpuReport) -> str:
    """What an upgrade did to the driver that runs, and what to do about it; empty while all versions are one."""
    runs = report.module or report.driver
    if not runs or not report.installed or report.installed == runs:
        return ""
    return (
        f"The driver that runs is {runs}, the one on the disk is {report.installed}: programs that start now cannot "
        "use the GPU. Reboot, or reload the nvidia kernel modules"
    )
