"""Where an engine of the command line's own computes."""

from __future__ import annotations

import pytest

from agent.cli.device import Place, find_place, place_in
from agent.core.errors import EngineError
from agent.core.gpu import Gpu, GpuPlace, GpuReport

REPORT = GpuReport(
    driver="580.82",
    gpus=(
        Gpu(uuid="GPU-a", name="H100", index=0, minor=1, compute_capability="9.0", memory_total_bytes=80 << 30),
        Gpu(uuid="GPU-b", name="L4", index=1, minor=0, compute_capability="8.9", memory_total_bytes=24 << 30),
    ),
)


async def test_the_processor_needs_no_driver() -> None:
    assert await find_place("cpu") == Place()


def test_a_model_is_cut_over_gpus_as_a_node_cuts_it() -> None:
    place = place_in(REPORT, "GPU-b+GPU-a")
    assert (place.gpus, place.tensor_split) == (("GPU-b", "GPU-a"), (24, 80))
    assert place.cards == "driver 580.82\nL4 8.9\nH100 9.0"
    assert place.node_of("GPU-a") == GpuPlace(minor=1)


def test_a_gpu_that_is_not_here_is_named() -> None:
    with pytest.raises(EngineError, match="no GPU GPU-x here"):
        place_in(REPORT, "GPU-a+GPU-x")
