"""GPU memory is given back when the driver shows it, not when an engine says goodbye."""

from __future__ import annotations

import pytest

from agent.core.gpu import Gpu, GpuFault, GpuProcess, GpuReport, GpuSample, MigSlice
from agent.core.release import LIMIT_S, Holding, judge, untold_bytes

MIB = 1 << 20
GIB = 1 << 30


def card(*users: tuple[int, int], used_mib: int = 0, uuid: str = "GPU-1", fault: GpuFault | None = None) -> GpuReport:
    listed = tuple(GpuProcess(pid=pid, kinds=("compute",), memory_bytes=mib * MIB) for pid, mib in users)
    sample = GpuSample(users=listed, processes=len(listed), memory_used_bytes=used_mib * MIB)
    return GpuReport(
        gpus=(Gpu(uuid=uuid, name="A", index=0, sample=sample if fault is None else GpuSample(), fault=fault),)
    )


HELD = Holding(bytes_by_gpu={"GPU-1": 4 * GIB}, pids=frozenset({7, 8}), untold={"GPU-1": 500 * MIB})


@pytest.mark.parametrize(
    ("report", "done", "released_mib", "says"),
    [
        (card(used_mib=500), True, 4096, ""),
        (card((99, 9000), used_mib=9540), True, 4096, ""),  # others took it at once: it was free
        (card((7, 4096), used_mib=4596), False, 0, "the driver still lists its process 7 with 4,096 MiB"),
        (card((8, 1024), used_mib=1524), False, 3072, "the driver still lists its process 8 with 1,024 MiB"),
        (card(used_mib=4500), False, 96, "4,000 MiB more than before belong to no process that the driver lists"),
        (card(fault=GpuFault.GPU_LOST), False, 0, "GPU-1 cannot be read"),
        (GpuReport(), False, 0, "GPU-1 cannot be read"),
    ],
)
def test_all_of_it_is_back_or_is_told_with_who_holds_it(report, done, released_mib, says) -> None:
    found = judge(HELD, report, ended=True, seconds=1.0)
    assert (found.done, found.released_bytes >> 20, found.detail) == (done, released_mib, "")
    late = judge(HELD, report, ended=True, seconds=LIMIT_S)
    assert (late.done, says in late.detail, bool(late.detail)) == (done, True, not done)


def test_an_engine_that_runs_has_given_back_nothing_whatever_the_driver_lists() -> None:
    assert not judge(HELD, card(used_mib=500), ended=False, seconds=1.0).done
    assert "has not ended" in judge(HELD, card(used_mib=500), ended=False, seconds=31.0).detail


def test_where_the_driver_lists_no_processes_the_end_of_the_engine_counts() -> None:
    blind = GpuReport(gpus=(Gpu(uuid="GPU-1", name="A", index=0, sample=GpuSample(memory_used_bytes=GIB)),))
    assert untold_bytes(blind, ("GPU-1",)) == {}
    held = Holding(bytes_by_gpu={"GPU-1": 4 * GIB}, pids=frozenset({7}))
    assert judge(held, blind, ended=True, seconds=1.0).done
    assert not judge(held, blind, ended=False, seconds=1.0).done


def test_a_slice_is_found_with_its_card() -> None:
    part = MigSlice(uuid="MIG-1", name="1g", memory_total_bytes=1, gpu_instance=1)
    user = GpuProcess(pid=7, kinds=("compute",), memory_bytes=GIB, gpu_instance=1)
    gpu = Gpu(uuid="GPU-1", name="A", index=0, mig=(part,), sample=GpuSample(users=(user,), processes=1))
    held = Holding(bytes_by_gpu={"MIG-1": GIB}, pids=frozenset({7}))
    assert not judge(held, GpuReport(gpus=(gpu,)), ended=True, seconds=1.0).done


def test_an_engine_that_held_nothing_is_done_when_it_ends() -> None:
    nothing = Holding(bytes_by_gpu={}, pids=frozenset())
    assert judge(nothing, GpuReport(), ended=True, seconds=0.5).done
    assert not judge(nothing, GpuReport(), ended=False, seconds=0.5).done
