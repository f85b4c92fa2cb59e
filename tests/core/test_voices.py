"""Owner and coordinator may both have the node take nothing; neither takes the other's word back, but the owner may."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core import events as ev
from agent.core.model import Reason
from agent.core.node import Node, NodeState
from agent.core.orders import Voice
from tests import builders
from tests.core.test_node import arrive, serving

OWNER, COORDINATOR = Voice.OWNER, Voice.COORDINATOR
GPU = ("GPU-1",)
OTHER_MODEL = "sha256:" + "cd" * 32


def node_with_gpu() -> Node:
    return serving(builders.pool("first", device="GPU-1"), builders.pool("second", model_digest=OTHER_MODEL))


def reasons(node: Node) -> list[Reason]:
    return [gate.reason for gate in node.gates()]


def test_the_coordinators_resume_ends_no_pause_of_the_owners() -> None:
    node = serving()
    node.handle(ev.PauseAsked(), 0.0)
    assert node.handle(ev.ResumeAsked(by=COORDINATOR), 1.0) == []
    assert (node.state, reasons(node), node.credit("main")) == (NodeState.PAUSED, [Reason.PAUSED], None)


def test_the_coordinators_resume_ends_no_drain_of_the_owners() -> None:
    node = serving()
    node.handle(ev.DrainAsked(limit_s=5.0), 0.0)
    assert node.handle(ev.ResumeAsked(by=COORDINATOR), 1.0) == []
    assert (node.state, node.credit("main")) == (NodeState.DRAINED, None)


def test_a_coordinator_that_drains_and_resumes_a_paused_node_leaves_it_paused() -> None:
    node = serving()
    node.handle(ev.PauseAsked(for_s=60.0), 0.0)
    node.handle(ev.DrainAsked(limit_s=5.0, by=COORDINATOR), 1.0)
    assert reasons(node) == [Reason.DRAINING, Reason.PAUSED]
    node.handle(ev.ResumeAsked(by=COORDINATOR), 2.0)
    assert (node.state, reasons(node), node.next_deadline()) == (NodeState.PAUSED, [Reason.PAUSED], 60.0)


def test_the_coordinators_resume_ends_no_pause_of_a_gpu() -> None:
    node = node_with_gpu()
    node.handle(ev.PauseAsked(devices=GPU), 0.0)
    assert node.handle(ev.ResumeAsked(by=COORDINATOR), 1.0) == []
    assert node.devices.paused.keys() == set(GPU)


def test_a_pause_of_the_coordinators_says_whose_it_is_and_leaves_engines_their_memory() -> None:
    node = serving()
    node.handle(ev.PauseAsked(why="an upgrade of the network", by=COORDINATOR), 0.0)
    (gate,) = node.gates()
    assert gate.reason is Reason.COORDINATOR_PAUSED
    assert gate.detail.startswith("the coordinator paused this node")
    assert gate.detail.endswith("`gpu-agent resume`: an upgrade of the network")
    assert (node.state, node.is_paused) == (NodeState.PAUSED, False)


def test_an_offer_that_comes_all_the_same_is_declined_in_the_same_word() -> None:
    node = serving()
    node.handle(ev.PauseAsked(by=COORDINATOR), 0.0)
    (returned,) = arrive(node, builders.offer())
    assert isinstance(returned, ev.ReturnOffer)
    assert returned.reason is Reason.COORDINATOR_PAUSED


def test_the_owners_resume_ends_what_the_coordinator_asked_for() -> None:
    for asked in (ev.PauseAsked(by=COORDINATOR), ev.DrainAsked(limit_s=5.0, by=COORDINATOR)):
        node = serving()
        node.handle(asked, 0.0)
        node.handle(ev.ResumeAsked(), 1.0)
        assert (node.state, reasons(node)) == (NodeState.SERVING, [])


def test_a_pause_of_the_owners_that_ends_by_itself_leaves_the_coordinators() -> None:
    node = serving()
    node.handle(ev.PauseAsked(by=COORDINATOR), 0.0)
    node.handle(ev.PauseAsked(for_s=60.0), 0.0)
    assert reasons(node) == [Reason.PAUSED, Reason.COORDINATOR_PAUSED]
    node.handle(ev.Ticked(), 60.0)
    assert reasons(node) == [Reason.COORDINATOR_PAUSED]


def test_the_earlier_limit_of_two_drains_counts_and_the_later_one_that_is_left_after_a_resume() -> None:
    node = serving()
    arrive(node, builders.offer())
    node.handle(ev.DrainAsked(limit_s=20.0), 0.0)
    node.handle(ev.DrainAsked(limit_s=10.0, by=COORDINATOR), 0.0)
    assert node.next_deadline() == 10.0
    node.handle(ev.ResumeAsked(by=COORDINATOR), 1.0)
    assert node.next_deadline() == 20.0


_WORDS = st.one_of(
    st.builds(ev.PauseAsked, for_s=st.none() | st.sampled_from((3.0, 30.0)), devices=st.sampled_from(((), GPU))),
    st.builds(ev.ResumeAsked, devices=st.sampled_from(((), GPU))),
    st.builds(ev.DrainAsked, limit_s=st.just(5.0)),
    st.builds(ev.GateChanged, reason=st.just(Reason.OWNER_ACTIVE), shut=st.booleans()),
)
_DIRECTIVES = st.one_of(
    st.just(ev.PauseAsked(by=COORDINATOR)),
    st.just(ev.ResumeAsked(by=COORDINATOR)),
    st.just(ev.DrainAsked(limit_s=5.0, by=COORDINATOR)),
)
_SAID = st.lists(st.tuples(st.booleans(), _WORDS, _DIRECTIVES, st.sampled_from((0.0, 1.0, 4.0))), max_size=14)
"""Whether the owner speaks; what he or else the coordinator says; seconds until then."""


@given(_SAID)
def test_whatever_a_coordinator_says_it_opens_nothing_that_the_owner_has_shut(
    said: list[tuple[bool, ev.NodeEvent, ev.NodeEvent, float]],
) -> None:
    node, without = node_with_gpu(), node_with_gpu()
    now = 0.0
    for owner, word, directive, later_s in said:
        now += later_s
        for it in (node, without):
            it.handle(ev.Ticked(), now)
            if owner or it is node:
                it.handle(word if owner else directive, now)
        for pool in node.pools:
            assert without.credit(pool) or not node.credit(pool)
        assert node.is_paused == without.is_paused
        assert node.devices.paused == without.devices.paused
    node.handle(ev.ResumeAsked(by=COORDINATOR), now)
    assert (node.gates(now), node.state) == (without.gates(now), without.state), "as if it had never spoken"
