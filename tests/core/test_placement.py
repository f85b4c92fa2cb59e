"""Which engine fits where, and what is said when it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.gpu import Gpu, GpuProcess, GpuReport, GpuSample, MigSlice, SliceSample
from agent.core.model_memory import Need
from agent.core.placement import Answer, Wish, never_in, place, plan_of, rooms, split, used_by

GIB = 1 << 30


def gpu(uuid: str, *, free: float | None, total: int = 24, users: tuple[GpuProcess, ...] = ()) -> Gpu:
    sample = GpuSample(memory_free_bytes=None if free is None else int(free * GIB), users=users, processes=len(users))
    return Gpu(uuid=uuid, name="A", index=0, memory_total_bytes=total * GIB, sample=sample)


def need(weights: float, *, gpus: int = 1, measured: float | None = None) -> Need:
    return Need(
        weights_bytes=int(weights * GIB),
        kv_bytes=GIB,
        buffers_bytes=GIB // 2,
        slots=4,
        context_tokens=4096,
        layers=32,
        gpus=gpus,
        measured_bytes=None if measured is None else int(measured * GIB),
    )


def asked(report: GpuReport, wish: Wish, *, reserve: float = 0, promised: dict[str, int] | None = None) -> Answer:
    return place(wish, report, reserve_bytes=int(reserve * GIB), promised=promised or {}, ours={})


def test_a_refusal_tells_every_number() -> None:
    report = GpuReport(gpus=(gpu("GPU-a", free=4.2, total=8),))
    answer = asked(report, Wish(need=need(4.1), gpus=("GPU-a",)), reserve=1)
    assert answer.refused == (
        "needs 5.6 GiB (weights 4.1, KV 1.0 for 4 × 4,096 tokens, buffers 0.5), "
        "GPU-a has 3.2 GiB of 8.0 GiB free after 3.8 GiB of other programs and a reserve of 1.0 GiB"
    )


def test_auto_takes_the_gpu_with_the_most_room() -> None:
    report = GpuReport(gpus=(gpu("GPU-a", free=8), gpu("GPU-b", free=20), gpu("GPU-c", free=3)))
    wish = Wish(need=need(4), candidates=("GPU-a", "GPU-b", "GPU-c"))
    assert asked(report, wish).gpus == ("GPU-b",)
    assert asked(report, wish, promised={"GPU-b": 15 * GIB}).gpus == ("GPU-a",)
    refused = asked(report, Wish(need=need(40), candidates=wish.candidates)).refused
    assert refused.endswith("the one with the most room of 3")


def test_a_slice_is_judged_by_its_own_memory() -> None:
    card = Gpu(
        uuid="GPU-a",
        name="A",
        index=0,
        memory_total_bytes=80 * GIB,
        mig_enabled=True,
        mig=(MigSlice(uuid="MIG-1", name="1g", memory_total_bytes=10 * GIB, gpu_instance=7),),
        sample=GpuSample(
            memory_free_bytes=70 * GIB,
            slices=(SliceSample(uuid="MIG-1", memory_used_bytes=8 * GIB, memory_free_bytes=2 * GIB),),
            users=(
                GpuProcess(pid=5, kinds=("compute",), memory_bytes=GIB, gpu_instance=7),
                GpuProcess(pid=5, kinds=("compute",), memory_bytes=9 * GIB, gpu_instance=8),
            ),
        ),
    )
    report = GpuReport(gpus=(card,))
    assert "MIG-1 has 2.0 GiB of 10.0 GiB free" in asked(report, Wish(need=need(4), gpus=("MIG-1",))).refused
    assert used_by(report, {5}, ["MIG-1"]) == {"MIG-1": GIB}


def test_several_gpus_share_by_their_size_and_each_must_have_room() -> None:
    report = GpuReport(gpus=(gpu("GPU-a", free=24), gpu("GPU-b", free=40, total=48)))
    known = rooms(report)
    assert split([known["GPU-a"], known["GPU-b"]]) == (24, 48)
    wish = Wish(need=need(40, gpus=2), gpus=("GPU-a", "GPU-b"))
    assert asked(report, wish).gpus == ("GPU-a", "GPU-b")
    assert "GPU-b (29.1 GiB of it there) has" in asked(report, wish, promised={"GPU-b": 15 * GIB}).refused


def test_of_what_was_measured_and_what_is_expected_the_larger_one_counts() -> None:
    report = GpuReport(gpus=(gpu("GPU-a", free=5),))
    assert "needs 21.5 GiB (weights 20.0" in asked(report, Wish(need=need(20, measured=4), gpus=("GPU-a",))).refused
    refused = asked(report, Wish(need=need(1, measured=6), gpus=("GPU-a",))).refused
    assert "needs 6.0 GiB (measured; expected 2.5 GiB)" in refused
    assert asked(report, Wish(need=need(1, measured=4), gpus=("GPU-a",))).bytes_by_gpu == {"GPU-a": 4 * GIB}


def test_what_the_driver_does_not_tell_refuses_nothing_that_the_card_could_hold() -> None:
    report = GpuReport(gpus=(gpu("GPU-a", free=None),))
    assert asked(report, Wish(need=need(4), gpus=("GPU-a",))).gpus == ("GPU-a",)
    assert asked(report, Wish(need=need(4), gpus=("GPU-unknown",))).gpus == ("GPU-unknown",)
    assert asked(report, Wish(need=need(40), gpus=("GPU-a",))).refused


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), ("f16", 512)),
        (("-ctk", "q8_0", "-ub", "64"), ("q8_0", 64)),
        (("--cache-type-k=q4_0",), ("q4_0", 512)),
        (("-ngl", "5"), None),
        (("--n-cpu-moe=4",), None),
        (("-ub", "many"), None),
    ],
)
def test_the_owners_arguments_are_understood_or_nothing_is_estimated(
    args: tuple[str, ...], told: tuple[str, int] | None
) -> None:
    plan = plan_of(1, 512, 1, args)
    assert (plan and (plan.key_type, plan.ubatch_tokens)) == told


def test_the_processor_is_refused_only_when_caches_alone_exceed_its_memory() -> None:
    assert never_in(need(400), 8 * GIB, None) == ""
    assert "this machine has 1.0 GiB" in never_in(need(1), GIB, None)
    assert "engine_memory_mib allows 1.0 GiB" in never_in(need(1), 8 * GIB, GIB)


@given(st.floats(0, 24), st.floats(0, 24), st.floats(0, 8))
def test_less_room_never_makes_an_engine_fit(free: float, less: float, reserve: float) -> None:
    wish = Wish(need=need(8), gpus=("GPU-a",))
    more, fewer = (
        asked(GpuReport(gpus=(gpu("GPU-a", free=size),)), wish, reserve=reserve) for size in (free, free - less)
    )
    assert not (more.refused and not fewer.refused)
