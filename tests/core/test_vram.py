"""Who uses more GPU memory than allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.gpu import Gpu, GpuFault, GpuProcess, GpuReport, GpuSample, MigSlice
from agent.core.vram import Claim, overuses, pids_on, unwatchable

MIB = 1 << 20


def report(*users: tuple[int, int | None], uuid: str = "GPU-1", **fields: object) -> GpuReport:
    listed = tuple(GpuProcess(pid=pid, kinds=("compute",), memory_bytes=size) for pid, size in users)
    sample = GpuSample(processes=len(listed), users=listed)
    return GpuReport(gpus=(Gpu(uuid=uuid, name="A", index=0, sample=sample, **fields),))


def claim(*pids: int, limit: int = 100 * MIB, gpus: tuple[str, ...] = ("GPU-1",)) -> Claim:
    return Claim(name="engine", gpus=gpus, pids=frozenset(pids), limit_bytes=limit)


def test_processes_of_one_claim_count_together_and_others_do_not() -> None:
    now = report((7, 60 * MIB), (8, 60 * MIB), (9, 900 * MIB))

    (over,) = overuses(now, [claim(7, 8)])

    assert (over.used_bytes, str(over)) == (120 * MIB, "used 120 MiB of GPU memory where 100 are allowed")
    assert overuses(now, [claim(7)]) == ()


def test_the_limit_itself_is_allowed() -> None:
    assert overuses(report((7, 100 * MIB)), [claim(7)]) == ()
    assert len(overuses(report((7, 100 * MIB + 1)), [claim(7)])) == 1


def test_gpus_of_one_claim_count_together() -> None:
    both = GpuReport(gpus=(*report((7, 60 * MIB)).gpus, *report((7, 60 * MIB), uuid="GPU-2").gpus))

    assert overuses(both, [claim(7)]) == ()
    assert len(overuses(both, [claim(7, gpus=("GPU-1", "GPU-2"))])) == 1


def test_a_slices_processes_are_listed_with_its_card() -> None:
    part = MigSlice(uuid="MIG-1", name="1g", memory_total_bytes=MIB)
    now = report((7, 200 * MIB), mig=(part,))

    assert len(overuses(now, [claim(7, gpus=("MIG-1",))])) == 1
    assert pids_on(now, ("MIG-1",)) == {7}


def test_what_is_not_told_counts_for_nobody_and_is_a_reason_to_refuse() -> None:
    now = report((7, None))

    assert overuses(now, [claim(7)]) == ()
    assert "without the memory" in unwatchable(now, ("GPU-1",))
    assert unwatchable(now, ("GPU-2",)) == ""


def test_a_driver_without_process_lists_is_a_reason_to_refuse() -> None:
    silent = Gpu(uuid="GPU-1", name="A", index=0, absent={"processes": "not supported"})

    assert unwatchable(GpuReport(gpus=(silent,)), ("GPU-1",)) == "not supported"


def test_a_gpu_that_is_lost_is_another_matter() -> None:
    lost = Gpu(uuid="GPU-1", name="A", index=0, fault=GpuFault.GPU_LOST)

    assert unwatchable(GpuReport(gpus=(lost,)), ("GPU-1",)) == ""


@pytest.mark.parametrize("gpus", [(), ("GPU-9",)])
def test_a_claim_on_no_listed_gpu_uses_nothing(gpus: tuple[str, ...]) -> None:
    assert overuses(report((7, 900 * MIB)), [claim(7, gpus=gpus)]) == ()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 500)), max_size=9), st.sets(st.integers(1, 9)))
def test_a_claim_is_over_exactly_when_its_own_processes_are(users: list[tuple[int, int]], pids: set[int]) -> None:
    used = sum(size for pid, size in users if pid in pids)

    assert bool(overuses(report(*users), [claim(*pids, limit=250)])) is (used > 250)
