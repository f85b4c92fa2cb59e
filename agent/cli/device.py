"""Where an engine of the command line's own computes: on the processor, or on GPUs as a node's would."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agent.core.determinism import cards
from agent.core.errors import EngineError
from agent.core.gpu import GpuReport, place_of, units
from agent.core.model import Reason
from agent.core.placement import rooms, split

if TYPE_CHECKING:
    from agent.core.gpu import GpuPlace

CPU = "cpu"


class Place(NamedTuple):
    """GPUs, and how a node cuts a model over them; none for the processor."""

    gpus: tuple[str, ...] = ()
    tensor_split: tuple[int, ...] = ()
    cards: str = ""
    """`core.determinism.cards`."""
    report: GpuReport = GpuReport()

    def node_of(self, uuid: str) -> GpuPlace | None:
        """Its device nodes, for the sandbox."""
        return place_of(self.report, uuid)


async def find_place(device: str) -> Place:
    """What `device` (`cpu`, or UUIDs joined by +) means here. Raises EngineError (ENGINE_UNAVAILABLE)."""
    if device == CPU:
        return Place()
    from agent.edges.clock import SystemClock
    from agent.edges.gpu.probe import OPEN_PATIENCE_S, NvmlProbe

    probe = NvmlProbe(SystemClock(), deadline_s=OPEN_PATIENCE_S)
    try:
        return place_in(await probe.snapshot(), device)
    finally:
        await probe.close()


def place_in(report: GpuReport, device: str) -> Place:
    """Likewise, by a reading of the driver."""
    gpus = tuple(device.split("+"))
    if unknown := [uuid for uuid in gpus if uuid not in units(report)]:
        raise EngineError(
            Reason.ENGINE_UNAVAILABLE,
            f"there is no GPU {unknown[0]} here",
            remedy=report.detail or "`gpu-agent gpus` lists them",
        )
    known = rooms(report)
    return Place(gpus, split([known.get(uuid) for uuid in gpus]), cards(report, gpus), report)
