"""Beats, directives and sessions: what a node tells of itself, and what it obeys."""

from __future__ import annotations

from agent.core import events as ev
from agent.core import wire
from agent.core.errors import StorageError
from agent.core.model import Reason, Signed
from agent.core.node import NodeState
from tests import builders
from tests.stages.rig import Rig


async def test_a_coordinator_that_offers_only_rubbish_is_asked_less_and_less_often() -> None:
    async with Rig() as rig:
        rubbish = Signed(payload="{}", key=rig.coordinator.keys.public_key, signature="00" * 64)
        rig.coordinator.answers[wire.Pull] = lambda _m: wire.Offers(offers=(rubbish,))
        await rig.coordinator.saw(wire.Pull)
        await rig.pass_time(10.0)
        assert len(rig.coordinator.sent(wire.Pull)) < 25
        assert rig.node.attempts == {}


async def test_a_coordinator_that_does_not_wait_is_asked_once_a_second() -> None:
    async with Rig() as rig:
        rig.coordinator.answers[wire.Pull] = lambda _m: wire.Offers()
        await rig.coordinator.saw(wire.Pull)
        await rig.pass_time(10.0)
        assert 3 <= len(rig.coordinator.sent(wire.Pull)) <= 12


async def test_beats_carry_what_is_held_and_obey_the_server_within_reason() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.coordinator.answers[wire.Beat] = lambda m: wire.BeatAck(lease_ms=40_000, beat_s=1e9, renewed=m.held)
        rig.spine.feed(ev.PauseAsked())  # a change of state is told at once
        await rig.until(lambda: rig.coordinator.sent(wire.Beat)[-1].state == "paused")
        beat = rig.coordinator.sent(wire.Beat)[-1]
        assert beat.held == (builders.offer().key,)
        assert beat.reason == "paused"
        await rig.until(lambda: rig.herald.beat_s == 60.0)


async def test_a_welcome_cannot_make_beats_a_storm_or_stop_them() -> None:
    async with Rig() as rig:
        for asked_s, kept_s in ((0.0, 0.5), (1e8, 60.0), (7.0, 7.0)):
            rig.herald.welcomed(
                rig.herald.hello("00"),
                wire.Welcome(session="s", session_ttl_s=60, proto=1, server_time=0, beat_s=asked_s, lease_s=40),
            )
            assert rig.herald.beat_s == kept_s


async def test_directives_are_obeyed_and_unknown_ones_ignored() -> None:
    async with Rig() as rig:
        for kind, state in (("pause", NodeState.PAUSED), ("resume", NodeState.SERVING), ("drain", NodeState.DRAINED)):
            rig.coordinator.push(wire.Directed(directive=wire.Directive(kind="format-disk")))
            rig.coordinator.push(wire.Directed(directive=wire.Directive(kind=kind)))
            await rig.until(lambda wanted=state: rig.node.state is wanted)


async def test_a_directive_ends_no_pause_of_the_owners_and_its_own_is_told_in_plain_words() -> None:
    async with Rig() as rig:
        rig.spine.feed(ev.PauseAsked())
        for directive in (wire.Directive(kind="resume"), wire.Directive(kind="pause", detail="for \x1b[2Jlunch")):
            rig.coordinator.push(wire.Directed(directive=directive))
        await rig.until(lambda: len(rig.node.gates()) > 1)
        mine, its = rig.node.gates()
        assert (mine.reason, its.reason) == (Reason.PAUSED, Reason.COORDINATOR_PAUSED)
        assert its.detail.endswith(": for lunch")


async def test_a_session_that_no_longer_wants_our_lease_stops_it() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        hello = rig.herald.hello("00")
        assert hello.running == (builders.offer().key,)
        rig.herald.welcomed(
            hello, wire.Welcome(session="s", session_ttl_s=60, proto=1, server_time=0, beat_s=10, lease_s=40, wanted=())
        )
        await rig.until(lambda: rig.engine.stopped)
        assert rig.node.closed[-1].reason is Reason.LEASE_LOST


async def test_a_lease_that_came_between_hello_and_welcome_is_kept() -> None:
    async with Rig() as rig:
        rig.engine.go.clear()
        hello = rig.herald.hello("00")
        rig.coordinator.offer(builders.offer())
        await rig.engine.began.wait()
        rig.herald.welcomed(
            hello, wire.Welcome(session="s", session_ttl_s=60, proto=1, server_time=0, beat_s=10, lease_s=40)
        )
        rig.engine.go.set()
        await rig.until(lambda: rig.outbox.ledger)


async def test_one_open_gate_never_hides_another_that_is_still_shut() -> None:
    async with Rig() as rig:
        full = StorageError("no space left", full=True)
        rig.transcripts.fails = full
        rig.coordinator.offer(builders.offer("waits"))
        await rig.until(rig.node.gates)
        rig.deliver._storage.works(builders.offer("other").key)
        assert [gate.reason for gate in rig.node.gates()] == [Reason.STORAGE_FULL]
        rig.transcripts.fails = None
        await rig.pass_time(6.0)
        await rig.until(lambda: rig.outbox.ledger)
        assert rig.node.gates() == []
