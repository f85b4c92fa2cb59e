"""What is told of a GPU fits together, or is named with what to do."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agent.core.attest.consistency import ADVICE, doubts_of, implausible
from agent.core.gpu import Gpu, GpuReport, GpuSample, KernelCard, KernelFacts, PciGpu
from agent.edges.gpu.models import card_table

GIB = 1 << 30
UUID, VBIOS, DRIVER, PLACE = "GPU-1", "96.00.be.00.0f", "580.95.05", "0000:3b:00.0"
H200 = Gpu(
    uuid=UUID,
    name="NVIDIA H200",
    index=0,
    pci_bus_id="00000000:3B:00.0",
    vbios=VBIOS.upper(),
    compute_capability="9.0",
    memory_total_bytes=150754820096,
    bar1_total_bytes=256 * GIB,
    power_limit_max_mw=700_000,
)
PROC = KernelCard(address=PLACE, name=H200.name, uuid=UUID, vbios=VBIOS)
PCI = PciGpu(address=PLACE, driver="nvidia", device="2335", bar_bytes=(16 << 20, 256 * GIB, 32 << 20))


def report(gpu: Gpu = H200, *, pci: PciGpu | None = PCI, proc: KernelCard | None = PROC, **kernel: Any) -> GpuReport:
    facts = KernelFacts(**{"version": DRIVER, "cards": (proc,) if proc else (), **kernel})
    return GpuReport(gpus=(gpu,), driver=DRIVER, bus=(pci,) if pci else (), kernel=facts)


def codes(told: GpuReport) -> list[str]:
    return [doubt.code for doubt in doubts_of(told, card_table()).get(UUID, ())]


def test_a_card_of_which_all_tell_the_same_raises_no_doubt() -> None:
    assert codes(report()) == []


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (report(version=""), "no_kernel_driver"),
        (report(version="550.54.15"), "driver_version"),
        (report(proc=None), "not_in_kernel"),
        (report(proc=replace(PROC, uuid="GPU-2")), "kernel_uuid"),
        (report(proc=replace(PROC, name="NVIDIA GeForce RTX 3060")), "kernel_name"),
        (report(proc=replace(PROC, vbios="90.00.00.00.01")), "kernel_vbios"),
        (report(pci=None), "no_pci_device"),
        (report(pci=replace(PCI, driver="vfio-pci")), "pci_driver"),
        (report(pci=replace(PCI, device="2504")), "pci_model"),
        (report(pci=replace(PCI, bar_bytes=(256 << 20,))), "pci_bar"),
        (report(replace(H200, memory_total_bytes=12 * GIB, bar1_total_bytes=None)), "memory_size"),
        (report(replace(H200, compute_capability="8.6")), "compute_capability"),
        (report(replace(H200, power_limit_max_mw=1_400_000)), "power_range"),
        (report(replace(H200, bar1_total_bytes=255 * GIB)), "bar_size"),
        (report(replace(H200, sample=GpuSample(memory_used_bytes=200 * GIB))), "impossible"),
        (report(replace(H200, sample=GpuSample(power_mw=1_500_000))), "impossible"),
    ],
)
def test_each_contradiction_is_named_with_advice(told: GpuReport, code: str) -> None:
    (doubt,) = doubts_of(told, card_table())[UUID]

    assert doubt.code == code
    assert doubt.advice == ADVICE[code]


def test_what_nobody_looked_at_raises_no_doubt() -> None:
    assert codes(GpuReport(gpus=(H200,), driver=DRIVER)) == []


def test_under_wsl_neither_kernel_nor_bus_are_asked() -> None:
    assert codes(report(pci=None, proc=None, version="", wsl=True)) == []


def test_what_the_kernel_does_not_know_yet_is_no_contradiction() -> None:
    assert codes(report(proc=replace(PROC, vbios="??.??.??.??.??", uuid="GPU-????????-????"))) == []


def test_a_share_of_a_card_need_not_have_all_its_memory() -> None:
    share = replace(H200, memory_total_bytes=20 * GIB, bar1_total_bytes=None, virtualization="vgpu")

    assert codes(report(share)) == []


def test_a_model_that_is_not_in_the_table_is_judged_by_the_rest_alone() -> None:
    assert codes(report(replace(H200, name="NVIDIA X9", memory_total_bytes=GIB * 8, bar1_total_bytes=None))) == [
        "kernel_name"
    ]


def test_a_card_that_is_lost_is_not_doubted_as_well() -> None:
    lost = msg_fault(H200)

    assert doubts_of(report(lost, pci=None), card_table()) == {}


def test_a_stranger_sees_by_its_own_words_that_a_card_is_no_such_model() -> None:
    assert [it.code for it in implausible(replace(H200, memory_total_bytes=24 * GIB), card_table())] == [
        "memory_size",
        "bar_size",
    ]
    assert implausible(H200, card_table()) == ()


def msg_fault(gpu: Gpu) -> Gpu:
    from agent.core.gpu import GpuFault

    return replace(gpu, fault=GpuFault.GPU_LOST)
