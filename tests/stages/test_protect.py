"""The gates of single GPUs in a running node: shut by readings, and cleared when the owner has waited long enough."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.core import events as ev
from agent.core.gpu import Gpu, GpuReport, GpuSample
from agent.core.gpu_policy import GpuGates, GpuPolicy
from agent.core.model import Outcome, Reason
from agent.stages.protect import Protect
from tests import builders
from tests.stages.rig import Rig


def at(temperature_c: int) -> GpuReport:
    return GpuReport(gpus=(Gpu(uuid="GPU-1", name="A", index=0, sample=GpuSample(temperature_c=temperature_c)),))


def protected(rig: Rig, hand_back_after_s: float | None) -> Protect:
    rig.spine.feed(ev.PoolChanged(pool=replace(rig.engine.facts, device="GPU-1")))
    policy = GpuPolicy(max_temperature_c=80.0, cool_down_c=10.0)
    return Protect(rig.spine, GpuGates(policy), frozenset, hand_back_after_s=hand_back_after_s)


async def running(rig: Rig) -> None:
    rig.engine.go.clear()
    rig.coordinator.offer(builders.offer())
    await rig.engine.began.wait()


async def test_a_gpu_that_is_too_hot_takes_nothing_until_it_has_cooled_down() -> None:
    async with Rig() as rig:
        protect = protected(rig, None)
        protect.see(at(85))
        assert [gate.reason for gate in rig.node.gates()] == [Reason.GPU_HOT]
        protect.see(at(75))
        assert rig.node.credit("main") is None
        protect.see(at(70))
        assert rig.node.credit("main")


@pytest.mark.parametrize(("after_s", "looks"), [(0.0, 0), (30.0, 3)])
async def test_what_runs_there_is_handed_back_after_as_long_as_the_owner_said(after_s: float, looks: int) -> None:
    async with Rig() as rig:
        protect = protected(rig, after_s)
        await running(rig)
        protect.see(at(85))
        for _ in range(looks):
            assert rig.node.held()
            rig.clock.advance(10.0)
            protect.see(at(85))
        await rig.until(lambda: rig.outbox.ledger)
        (body,) = rig.coordinator.results()
        assert (body.outcome, body.reason) == (Outcome.HANDED_BACK, Reason.GPU_HOT)


async def test_what_runs_there_may_finish_where_the_owner_says_so() -> None:
    async with Rig() as rig:
        protect = protected(rig, None)
        await running(rig)
        protect.see(at(85))
        rig.clock.advance(20.0)
        protect.see(at(85))
        rig.engine.go.set()
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.node.counts[Outcome.SUCCEEDED] == 1


async def test_a_limit_that_is_lowered_shuts_at_once_and_no_work_slips_through_one_that_changes() -> None:
    async with Rig() as rig:
        protect = protected(rig, None)
        protect.see(at(75))
        assert rig.node.credit("main")
        protect.obey(GpuPolicy(max_temperature_c=70.0, cool_down_c=10.0), hand_back_after_s=None)
        assert [gate.reason for gate in rig.node.gates()] == [Reason.GPU_HOT]
        protect.obey(GpuPolicy(max_temperature_c=74.0, cool_down_c=10.0), hand_back_after_s=None)
        assert [gate.reason for gate in rig.node.gates()] == [Reason.GPU_HOT]
        protect.obey(GpuPolicy(), hand_back_after_s=None)
        assert rig.node.credit("main")


async def test_what_becomes_of_running_tasks_may_be_changed_while_a_gate_is_shut() -> None:
    async with Rig() as rig:
        protect = protected(rig, None)
        await running(rig)
        protect.see(at(85))
        assert rig.node.held()
        protect.obey(GpuPolicy(max_temperature_c=80.0, cool_down_c=10.0), hand_back_after_s=0.0)
        await rig.until(lambda: rig.outbox.ledger)
