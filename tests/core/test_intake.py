"""Pauses: of the node and of one GPU, until resumed or until their time is over."""

from __future__ import annotations

import pytest

from agent.core import events as ev
from agent.core.health import HealthState
from agent.core.model import Reason
from agent.core.node import Node, NodeState
from agent.core.release import UNLOADS
from tests import builders
from tests.core.test_node import WORK, arrive, happen, kinds, serving

OTHER_MODEL = "sha256:" + "cd" * 32


def two_gpus() -> Node:
    return serving(
        builders.pool("first", device="GPU-1"), builders.pool("second", device="GPU-2", model_digest=OTHER_MODEL)
    )


def test_a_pause_with_an_end_ends_by_itself_and_not_before() -> None:
    node = serving()
    node.handle(ev.PauseAsked(for_s=7200.0), 10.0)
    assert (node.state, node.next_deadline()) == (NodeState.PAUSED, 7210.0)
    assert node.handle(ev.Ticked(), 7209.0) == []
    assert node.handle(ev.Ticked(), 7210.0) == [ev.NodeMoved(before="paused", after="serving")]
    assert node.next_deadline() is None


def test_a_pause_tells_how_long_it_still_is() -> None:
    node = serving()
    node.handle(ev.PauseAsked(for_s=7200.0), 0.0)
    (gate,) = node.gates(1800.0)
    assert (gate.reason, gate.detail) == (
        Reason.PAUSED,
        "paused for another 1 h 30 min, or until `gpu-agent resume`",
    )


@pytest.mark.parametrize(
    ("second", "deadline"), [(ev.PauseAsked(), None), (ev.PauseAsked(for_s=5.0), 6.0), (ev.ResumeAsked(), None)]
)
def test_the_last_word_counts(second: ev.NodeEvent, deadline: float | None) -> None:
    node = serving()
    node.handle(ev.PauseAsked(for_s=60.0), 0.0)
    node.handle(second, 1.0)
    assert node.next_deadline() == deadline
    node.handle(ev.Ticked(), 60.0)
    assert (node.state is NodeState.PAUSED) is (second == ev.PauseAsked())


def test_a_drain_outlasts_a_pause_and_gives_engines_no_memory_back_before_that_ends() -> None:
    node = serving()
    node.handle(ev.PauseAsked(for_s=60.0), 0.0)
    node.handle(ev.DrainAsked(limit_s=5.0), 1.0)
    assert [gate.reason for gate in node.gates()] == [Reason.DRAINING, Reason.PAUSED]
    assert node.reasons(("cpu",)) & UNLOADS == {Reason.PAUSED}
    node.handle(ev.PauseAsked(for_s=60.0), 10.0)
    assert (node.is_paused, node.next_deadline()) == (True, 70.0)
    node.handle(ev.Ticked(), 70.0)
    assert (node.state, node.is_paused, node.next_deadline()) == (NodeState.DRAINED, False, None)
    node.handle(ev.PauseAsked(), 71.0)
    assert not node.is_paused
    node.handle(ev.ResumeAsked(), 72.0)
    assert (node.state, node.gates()) == (NodeState.SERVING, [])


def test_a_paused_gpu_takes_nothing_and_the_other_goes_on() -> None:
    node = two_gpus()
    assert node.handle(ev.PauseAsked(devices=("GPU-1",)), 0.0) == [ev.DevicesPaused(devices=("GPU-1",))]
    assert (node.credit("first"), node.state, node.gates()) == (None, NodeState.SERVING, [])
    assert node.credit("second")
    (gate,) = node.pool_gates("first", 0.0)
    assert (gate.reason, "first: GPU-1 is paused" in gate.detail) == (Reason.PAUSED, True)
    (returned,) = arrive(node, builders.offer())
    assert isinstance(returned, ev.ReturnOffer)
    assert returned.reason is Reason.PAUSED


def test_what_runs_on_a_gpu_that_is_paused_goes_on_to_its_end() -> None:
    node, offer = two_gpus(), builders.offer()
    arrive(node, offer)
    assert kinds(node.handle(ev.PauseAsked(devices=("GPU-1",)), 0.0)) == [ev.DevicesPaused]
    happen(node, offer.key, *WORK)
    assert node.attempts == {}


def test_a_gpus_pause_ends_by_itself_or_by_name_and_a_plain_resume_ends_all() -> None:
    node = two_gpus()
    node.handle(ev.PauseAsked(devices=("GPU-1",), for_s=60.0), 0.0)
    node.handle(ev.PauseAsked(devices=("GPU-2", "MIG-2")), 0.0)
    assert {gate.reason for gate in node.gates()} == {Reason.PAUSED}
    assert node.next_deadline() == 60.0
    assert node.handle(ev.Ticked(), 60.0) == [ev.DevicesResumed(devices=("GPU-1",))]
    assert node.credit("first")
    assert node.handle(ev.ResumeAsked(devices=("GPU-1",)), 61.0) == []
    assert node.credit("second") is None
    node.handle(ev.ResumeAsked(), 62.0)
    assert node.credit("second")


def test_the_resume_of_a_gpu_leaves_the_nodes_own_pause_alone() -> None:
    node = two_gpus()
    node.handle(ev.PauseAsked(), 0.0)
    node.handle(ev.PauseAsked(devices=("GPU-1",)), 0.0)
    node.handle(ev.ResumeAsked(devices=("GPU-1",)), 0.0)
    assert (node.state, node.devices.paused) == (NodeState.PAUSED, {})


def test_every_reason_of_a_pool_is_told_not_the_first_alone() -> None:
    node = serving(builders.pool("only", device="GPU-1", ready=False, detail="reading the model"))
    node.handle(ev.PauseAsked(devices=("GPU-1",)), 0.0)
    node.handle(ev.GpuMoved(devices=("GPU-1",), state=HealthState.DEGRADED, detail="too hot"), 0.0)
    assert [gate.reason for gate in node.gates()] == [Reason.PAUSED, Reason.GPU_DEGRADED, Reason.POOL_NOT_READY]
