"""Whether what is told of a GPU fits together: the driver's words, the kernel's, the bus's, and what its model is.

What does not fit is a doubt. It keeps no work away, for nobody is harmed by an odd card that computes; but a GPU with a
doubt is never `attested`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from agent.core.attest.cards import Card, card_named
from agent.core.gpu import Gpu, GpuReport, KernelCard, PciGpu, bus_address
from agent.core.model import Value

MIB, GIB = 1 << 20, 1 << 30
_PASSTHROUGH = frozenset({"vgpu"})
"""How a GPU may be there without being a whole card: its memory is a share."""


class Doubt(Value):
    """One thing that does not fit."""

    code: str
    """Stable word, such as `no_pci_device`."""
    evidence: str
    advice: str


class _Seen(NamedTuple):
    """One GPU, by all that tell of it."""

    gpu: Gpu
    report: GpuReport
    proc: KernelCard | None
    pci: PciGpu | None
    card: Card | None


ADVICE: Final = {
    "no_kernel_driver": "NVIDIA's kernel module is not loaded here; whatever answers as NVML is not the driver",
    "driver_version": "Reboot, so that library and kernel module are of one version",
    "not_in_kernel": "Look at `ls /proc/driver/nvidia/gpus`; in a container, hand it all of /proc/driver/nvidia",
    "kernel_uuid": "Find out which library answers as NVML: `gpu-agent gpus --library` reads with another",
    "kernel_name": "Find out which library answers as NVML: `gpu-agent gpus --library` reads with another",
    "kernel_vbios": "Find out which library answers as NVML: `gpu-agent gpus --library` reads with another",
    "no_pci_device": "Look at `lspci -d 10de:`; a virtual machine must be handed the card itself",
    "pci_driver": "Bind the card to the nvidia driver",
    "pci_model": "The board is another than its firmware says: ask whom you bought it from",
    "pci_bar": "Find out which library answers as NVML: `gpu-agent gpus --library` reads with another",
    "bar_size": "Find out which library answers as NVML: `gpu-agent gpus --library` reads with another",
    "memory_size": "The card has other memory than its model: ask whom you bought it from",
    "compute_capability": "The card is no model of this name: ask whom you bought it from",
    "power_range": "The card is no model of this name: ask whom you bought it from",
    "impossible": "Find out which library answers as NVML: `gpu-agent gpus --library` reads with another",
}
"""What the owner can do about each doubt."""


def doubts_of(report: GpuReport, cards: Sequence[Card]) -> dict[str, tuple[Doubt, ...]]:
    """By UUID; GPUs without a doubt are missing."""
    found = {gpu.uuid: tuple(_doubts(_seen(gpu, report, cards))) for gpu in report.gpus if gpu.fault is None}
    return {uuid: doubts for uuid, doubts in found.items() if doubts}


def implausible(gpu: Gpu, cards: Iterable[Card]) -> tuple[Doubt, ...]:
    """What a stranger sees who has nothing but the GPU's own words."""
    card = card_named(gpu.name, cards)
    return tuple(_doubt(code, evidence) for code, evidence in (*_of_model(gpu, card), *_of_itself(gpu)))


def _seen(gpu: Gpu, report: GpuReport, cards: Sequence[Card]) -> _Seen:
    address = bus_address(gpu.pci_bus_id)
    kernel = report.kernel
    proc = next((it for it in kernel.cards if bus_address(it.address) == address), None) if kernel else None
    pci = next((it for it in report.bus if bus_address(it.address) == address), None)
    return _Seen(gpu, report, proc, pci, card_named(gpu.name, cards))


def _doubts(seen: _Seen) -> Iterator[Doubt]:
    for code, evidence in (
        *_of_kernel(seen),
        *_of_bus(seen),
        *_of_model(seen.gpu, seen.card),
        *_of_itself(seen.gpu),
    ):
        yield _doubt(code, evidence)


def _doubt(code: str, evidence: str) -> Doubt:
    return Doubt(code=code, evidence=evidence, advice=ADVICE[code])


def _of_kernel(seen: _Seen) -> Iterator[tuple[str, str]]:
    """Against /proc/driver/nvidia, which the kernel module makes. Under WSL 2 that module is in Windows."""
    kernel, gpu = seen.report.kernel, seen.gpu
    if kernel is None or kernel.wsl:
        return
    if not kernel.version:
        yield "no_kernel_driver", f"NVML lists {gpu.name}, and there is no /proc/driver/nvidia/version"
        return
    if seen.report.driver and kernel.version != seen.report.driver:
        yield "driver_version", f"NVML is of driver {seen.report.driver}, the kernel runs {kernel.version}"
    if seen.proc is None:
        yield "not_in_kernel", f"the kernel's driver has no card at {gpu.pci_bus_id}"
        return
    for code, told, ours in (
        ("kernel_uuid", seen.proc.uuid, gpu.uuid),
        ("kernel_name", seen.proc.name, gpu.name),
        ("kernel_vbios", seen.proc.vbios.lower(), (gpu.vbios or "").lower()),
    ):
        if told and ours and "?" not in told and told != ours:  # the kernel writes ? where it does not know yet
            yield code, f"the kernel's driver says {told}, NVML says {ours}"


def _of_bus(seen: _Seen) -> Iterator[tuple[str, str]]:
    """Against what the card itself told the kernel on the PCI bus, before any driver of NVIDIA's was there."""
    kernel, gpu, pci = seen.report.kernel, seen.gpu, seen.pci
    if kernel is None or kernel.wsl:
        return
    if pci is None:
        yield "no_pci_device", f"no NVIDIA device is on the PCI bus at {gpu.pci_bus_id or 'any address'}"
        return
    if pci.driver not in (None, "nvidia"):
        yield "pci_driver", f"the device at {pci.address} belongs to {pci.driver}"
    if seen.card and seen.card.pci and pci.device and pci.device not in seen.card.pci:
        yield "pci_model", f"the device at {pci.address} is 10de:{pci.device}, which is no {gpu.name}"
    if pci.bar_bytes and gpu.bar1_total_bytes and gpu.bar1_total_bytes > max(pci.bar_bytes):
        window = gpu.bar1_total_bytes // MIB
        yield (
            "pci_bar",
            f"NVML tells a window of {window} MiB, the largest on the bus is {max(pci.bar_bytes) // MIB} MiB",
        )


def _of_model(gpu: Gpu, card: Card | None) -> Iterator[tuple[str, str]]:
    """Against what is publicly known of its model."""
    if card is None:
        return
    least, most = card.memory_gib
    total = gpu.memory_total_bytes
    if total is not None and gpu.virtualization not in _PASSTHROUGH and not least <= total / GIB <= most:
        yield "memory_size", f"{total / GIB:.1f} GiB, where {gpu.name} has {least:g} to {most:g}"
    if gpu.compute_capability and gpu.compute_capability != card.compute_capability:
        known = card.compute_capability
        yield "compute_capability", f"compute capability {gpu.compute_capability}, where {gpu.name} has {known}"
    limit = gpu.power_limit_max_mw
    if limit is not None and limit / 1000 > card.power_w * 1.1:  # makers of boards allow some more
        yield "power_range", f"up to {limit / 1000:.0f} W, where {gpu.name} takes {card.power_w:g}"


def _of_itself(gpu: Gpu) -> Iterator[tuple[str, str]]:
    """What no card can be."""
    window, total = gpu.bar1_total_bytes, gpu.memory_total_bytes
    if window and window & (window - 1):
        yield "bar_size", f"a window of {window} bytes, which is no power of two as on every PCI device"
    if window and total and window > 4 * max(total, GIB):
        yield "bar_size", f"a window of {window / GIB:.0f} GiB onto {total / GIB:.0f} GiB of memory"
    used, now = gpu.sample.memory_used_bytes, gpu.sample.power_mw
    if used is not None and total is not None and used > total:
        yield "impossible", "more memory is in use than there is"
    if now is not None and gpu.power_limit_max_mw and now > 2 * gpu.power_limit_max_mw:
        yield "impossible", "it draws more than twice what its board takes"
