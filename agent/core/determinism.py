"""What of a machine's GPUs decides which bits an engine computes: the card, not which one of its kind it is."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.gpu import Gpu, GpuReport


def cards(report: GpuReport, uuids: Sequence[str]) -> str:
    """Model, compute capability and driver of each of `uuids`, in their order; a MIG slice by its profile too.

    Two machines with equal cards and drivers read the same here. Empty when one of them is not known well enough: then
    nothing can be promised.
    """
    known = {uuid: told for gpu in report.gpus for uuid, told in _told(gpu)}
    found = [known.get(uuid, "") for uuid in uuids]
    if not report.driver or not all(found):
        return ""
    return "\n".join([f"driver {report.driver}", *found])


def _told(gpu: Gpu) -> list[tuple[str, str]]:
    if gpu.fault is not None or not gpu.compute_capability:
        return []
    card = f"{gpu.name} {gpu.compute_capability}"
    return [(gpu.uuid, card), *((part.uuid, f"{card} {_profile(part.name)}") for part in gpu.mig)]


def _profile(name: str) -> str:
    """`1g.10gb` of what drivers call `NVIDIA H100 80GB HBM3 MIG 1g.10gb`."""
    return name.rsplit(maxsplit=1)[-1] if name else ""
