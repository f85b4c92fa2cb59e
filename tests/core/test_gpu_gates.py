"""A GPU that is not well takes no new work; one that is lost gives back what it has; no other pool suffers."""

from __future__ import annotations

import pytest

from agent.core import events as ev
from agent.core.health import HealthState
from agent.core.model import LeaseKey, Outcome, Reason, State
from agent.core.node import Node
from tests import builders
from tests.core.test_node import WORK, arrive, happen, kinds, serving

OTHER_MODEL = "sha256:" + "cd" * 32
FIRST = builders.pool("first", device="GPU-1")
SECOND = builders.pool("second", device="GPU-2", model_digest=OTHER_MODEL)


def moved(node: Node, state: HealthState, *devices: str) -> list[ev.Command]:
    return node.handle(ev.GpuMoved(devices=devices or ("GPU-1",), state=state, detail="too hot"), 5.0)


def node_with_gpus() -> Node:
    node = serving(FIRST, SECOND)
    moved(node, HealthState.HEALTHY, "GPU-1")
    moved(node, HealthState.HEALTHY, "GPU-2")
    return node


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (HealthState.UNKNOWN, Reason.GPU_UNKNOWN),
        (HealthState.DEGRADED, Reason.GPU_DEGRADED),
        (HealthState.LOST, Reason.GPU_LOST),
    ],
)
def test_a_pool_on_a_gpu_that_is_not_well_asks_for_nothing_and_says_why(state: HealthState, reason: Reason) -> None:
    node = node_with_gpus()
    moved(node, state)
    assert node.credit("first") is None
    assert node.credit("second")
    assert [load.free for load in node.loads()] == [0, 2]
    (returned,) = arrive(node, builders.offer())
    assert isinstance(returned, ev.ReturnOffer)
    assert (returned.reason, "too hot" in returned.detail) == (reason, True)
    moved(node, state, "GPU-2")
    assert [gate.reason for gate in node.gates()] == [reason, reason]


def test_what_runs_on_a_degraded_gpu_may_finish() -> None:
    node, offer = node_with_gpus(), builders.offer()
    arrive(node, offer)
    assert kinds(moved(node, HealthState.DEGRADED)) == []
    happen(node, offer.key, *WORK)
    assert node.counts[Outcome.SUCCEEDED] == 1


def test_what_runs_on_a_lost_gpu_is_handed_back_and_nothing_else() -> None:
    node, here = node_with_gpus(), builders.offer("here")
    there = builders.offer("there", spec=builders.task("there", model=OTHER_MODEL))
    for offer in (here, there):
        arrive(node, offer)
        happen(node, offer.key, *WORK[:2])
    assert kinds(moved(node, HealthState.LOST)) == [ev.StopWork, ev.StoreResult]
    lost = node.attempts[here.key]
    assert (lost.state, lost.outcome, lost.reason) == (State.REPORTING, Outcome.HANDED_BACK, Reason.GPU_LOST)
    assert node.attempts[there.key].state is State.RUNNING


def test_a_finished_result_survives_the_loss_of_its_gpu() -> None:
    node, offer = node_with_gpus(), builders.offer()
    arrive(node, offer)
    happen(node, offer.key, *WORK[:4])
    assert kinds(moved(node, HealthState.LOST)) == []
    happen(node, offer.key, *WORK[4:])
    assert node.counts[Outcome.SUCCEEDED] == 1


def test_a_gpu_that_is_well_again_takes_work_again() -> None:
    node = node_with_gpus()
    moved(node, HealthState.LOST)
    moved(node, HealthState.DEGRADED)
    assert node.credit("first") is None
    moved(node, HealthState.HEALTHY)
    assert node.credit("first")
    assert node.gates() == []


def test_a_pool_over_two_gpus_is_as_well_as_the_worse_of_them() -> None:
    node = serving(builders.pool(device="GPU-1+GPU-2"))
    moved(node, HealthState.HEALTHY, "GPU-1")
    moved(node, HealthState.LOST, "GPU-2")
    assert [gate.reason for gate in node.gates()] == [Reason.GPU_LOST]


def test_a_slice_shares_the_health_of_its_gpu() -> None:
    node = serving(builders.pool(device="MIG-7"))
    moved(node, HealthState.LOST, "GPU-1", "MIG-7")
    assert node.credit("main") is None


def test_a_pool_without_a_gpu_is_judged_by_none() -> None:
    node = serving()
    moved(node, HealthState.LOST)
    assert node.credit("main")


def gate(node: Node, reason: Reason, *devices: str, shut: bool = True) -> list[ev.Command]:
    return node.handle(ev.DeviceGateChanged(devices=devices, reason=reason, shut=shut, detail="why"), 5.0)


def test_a_gate_of_one_gpu_keeps_its_pools_out_alone_and_says_why() -> None:
    node = node_with_gpus()
    gate(node, Reason.GPU_IN_USE, "GPU-1", "MIG-7")
    gate(node, Reason.GPU_HOT, "GPU-1")
    assert [(it.reason, it.detail) for it in node.pool_gates("first", 5.0)] == [
        (Reason.GPU_IN_USE, "first: GPU-1: why"),
        (Reason.GPU_HOT, "first: GPU-1: why"),
    ]
    assert (node.credit("first"), bool(node.credit("second")), node.gates()) == (None, True, [])
    assert node.reasons(["GPU-1"]) == {Reason.GPU_IN_USE, Reason.GPU_HOT}
    gate(node, Reason.GPU_IN_USE, "GPU-1", shut=False)
    assert node.credit("first") is None
    gate(node, Reason.GPU_HOT, "GPU-1", shut=False)
    assert node.credit("first")
    assert node.reasons(["GPU-1"]) == frozenset()


def two_running(node: Node) -> tuple[LeaseKey, LeaseKey]:
    here = builders.offer("here")
    there = builders.offer("there", spec=builders.task("there", model=OTHER_MODEL))
    for offer in (here, there):
        arrive(node, offer)
        happen(node, offer.key, *WORK[:2])
    return here.key, there.key


def test_what_runs_on_a_gpu_that_its_owner_wants_back_is_handed_back_and_nothing_else() -> None:
    node = node_with_gpus()
    here, there = two_running(node)
    node.handle(ev.AbortAsked(reason=Reason.GPU_IN_USE, devices=("GPU-1",)), 5.0)
    assert (node.attempts[here].outcome, node.attempts[here].reason) == (Outcome.HANDED_BACK, Reason.GPU_IN_USE)
    assert node.attempts[there].state is State.RUNNING


@pytest.mark.parametrize("devices", [(), ("GPU-1",)])
def test_a_pause_hands_back_what_runs_as_soon_as_its_owner_said(devices: tuple[str, ...]) -> None:
    node = node_with_gpus()
    here, there = two_running(node)
    assert stops(node.handle(ev.PauseAsked(hand_back_after_s=10.0, devices=devices), 5.0)) == 0
    assert node.next_deadline() == 15.0
    assert stops(node.handle(ev.Ticked(), 14.9)) == 0
    assert stops(node.handle(ev.Ticked(), 15.0)) == (1 if devices else 2)
    assert node.attempts[here].reason is Reason.PAUSED
    assert (node.attempts[there].reason is Reason.PAUSED) is (not devices)
    assert stops(node.handle(ev.Ticked(), 16.0)) == 0, "once"
    assert node.reasons(["GPU-1"]) == {Reason.PAUSED}, "the pause itself goes on"


@pytest.mark.parametrize("devices", [(), ("GPU-1",)])
def test_a_pause_that_lets_nothing_go_on_hands_back_at_once(devices: tuple[str, ...]) -> None:
    node = node_with_gpus()
    two_running(node)
    assert stops(node.handle(ev.PauseAsked(hand_back_after_s=0.0, devices=devices), 5.0)) == (1 if devices else 2)


def stops(commands: list[ev.Command]) -> int:
    return sum(isinstance(command, ev.StopWork) for command in commands)
