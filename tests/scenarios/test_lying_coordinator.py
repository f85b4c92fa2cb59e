"""The agent as a process against a coordinator that lies: it says so once, in words, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.core import wire
from agent.core.model import LeaseKey, Outcome, Reason
from agent.core.proof.drand import QUICKNET
from agent.core.proof.signed import seal
from agent.edges.signing import KeyPair
from tests import builders
from tests.fakes.mind import Act, Raw
from tests.patience import PATIENCE_S
from tests.scenarios.engine import HeldEngine
from tests.scenarios.liar import Liar, raw
from tests.scenarios.world import AgentProcess, external
from tests.stages.paper import confirmed


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    async with Liar() as running:
        yield running


@pytest.fixture
async def agent(liar: Liar, engine: HeldEngine, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    """Enrolled with the liar, not started yet."""
    process = AgentProcess(tmp_path / "node", external(engine.url), url=liar.url, token="")
    liar.enlist(process)
    yield process
    await process.discard()


async def does_a_task(agent: AgentProcess, liar: Liar, task: str) -> None:
    """The proof that it goes on: offer a task and wait for its receipt."""
    liar.mind.offer(builders.offer(task))
    await agent.saw("result.receipted", task=task)
    done = [body for body in liar.mind.results() if body.task_id == task]
    assert done[-1].outcome is Outcome.SUCCEEDED
    assert agent.noise == []


def _text(message: str) -> Act:
    return lambda frame: raw(frame, message)


RUBBISH: dict[str, Act] = {
    "no JSON": lambda _: Raw(b'{"re":'),
    "no text": lambda _: Raw(b"\xff\xfe\x00"),
    "nested without end": lambda _: Raw(b"[" * 100_000),
    "larger than any message": lambda frame: raw(frame, '{"type":"ack","pad":"' + "x" * wire.MAX_MESSAGE_BYTES + '"}'),
    "a type that nobody knows": _text('{"type":"obey"}'),
    "a field of a wrong type": _text('{"type":"beatack","lease_ms":"long","beat_s":1}'),
    "a negative lease": _text('{"type":"beatack","lease_ms":-1,"beat_s":1}'),
    "a beat that lasts for ever": _text('{"type":"beatack","lease_ms":8000,"beat_s":1e300}'),
    "the answer to something else": _text('{"type":"offers","offers":[]}'),
}


@pytest.mark.parametrize("transport", ["websocket", "poll"])
async def test_what_is_no_message_is_told_once_and_with_what_to_do(
    agent: AgentProcess, liar: Liar, transport: str
) -> None:
    await agent.start("--set", f"coordinator.transport={transport}")
    for number, (what, act) in enumerate(RUBBISH.items(), 1):
        await liar.mind.took(wire.Beat, liar.mind.count(wire.Beat) + 1)
        liar.mind.next_time(wire.Beat, act)
        line = await agent.saw("beat.failed", number, fault="broken")
        assert "does not speak this protocol" in line["detail"], what
        assert "Check that coordinator.url is a coordinator" in line["detail"], what
        assert len(line["detail"]) < 700, what
    await does_a_task(agent, liar, "after")
    assert len(agent.events("beat.failed")) == len(RUBBISH)


async def test_replayed_and_unasked_replies_change_nothing(agent: AgentProcess, liar: Liar) -> None:
    await agent.start("--set", "coordinator.transport=websocket")
    await liar.mind.took(wire.Beat, 2)
    stolen = wire.DownFrame(re=1, msg=wire.BeatAck(lease_ms=1, beat_s=60, lost=(builders.offer().key,)))
    for number in (1, 2, 10_000):
        await liar.push(Raw(wire.encode(msgspec.structs.replace(stolen, re=number))))
    await liar.push(wire.Cancel(key=builders.offer("not ours").key, reason=Reason.CANCELLED_BY_REQUESTER))
    await liar.push(wire.Directed(directive=wire.Directive(kind="format_disk", detail="now")))
    assert (await agent.saw("directive.unknown"))["kind"] == "format_disk"
    await does_a_task(agent, liar, "after")
    assert agent.events("beat.failed") == []


async def test_offers_that_lie_are_refused_by_name_and_nothing_of_them_runs(
    agent: AgentProcess, liar: Liar, engine: HeldEngine
) -> None:
    mind, stranger = liar.mind, KeyPair.generate()
    await agent.start()
    await does_a_task(agent, liar, "first")
    forged = seal(wire.Role.OFFER, wire.encode(builders.offer("forged")), stranger.public_key, stranger.sign)
    negative = wire.encode(builders.offer("negative")).replace(b'"lease_ms":40000', b'"lease_ms":-40000')
    other_digest = builders.task("other-digest", model="sha256:" + "cd" * 32)
    mind.offer(
        forged,
        msgspec.structs.replace(forged, key=mind.keys.public_key),
        seal(wire.Role.OFFER, negative, mind.keys.public_key, mind.keys.sign),
        builders.offer("no-lease", lease_ms=0),
        builders.offer("gone-before-it-is-granted", lease_ms=1_500),
        builders.offer("too-late", deadline_ms=0),
        builders.offer("other-digest", spec=other_digest),
        builders.offer("other-node", node_id="node-2"),
        builders.offer("no-attempt", attempt=0),
        builders.offer("first"),
    )
    await agent.saw("offer.refused", 3)
    told = [line["detail"] for line in agent.events("offer.refused")]
    assert all(words in line for words, line in zip(("signed by", "does not verify", "lease_ms"), told, strict=True))
    for task, reason in {
        "no-lease": Reason.LEASE_TOO_SHORT,
        "gone-before-it-is-granted": Reason.LEASE_TOO_SHORT,
        "too-late": Reason.DEADLINE_PASSED,
        "other-digest": Reason.UNKNOWN_MODEL,
        "other-node": Reason.WRONG_NODE,
        "no-attempt": Reason.MALFORMED_OFFER,
        "first": Reason.REPLAYED_OFFER,
    }.items():
        assert (await agent.saw("offer.declined", task=task, reason=reason.value))["detail"]
    await does_a_task(agent, liar, "second")
    assert engine.finished == 2


async def test_leases_without_measure_do_no_harm(agent: AgentProcess, liar: Liar) -> None:
    for_ever = 2**53 - 1
    liar.mind.next_time(wire.Start, lambda f: confirmed(f.msg, lease_ms=for_ever))  # type: ignore[union-attr]
    liar.mind.offer(builders.offer("for-ever", lease_ms=for_ever, deadline_ms=for_ever))
    await agent.start()
    await agent.saw("result.receipted", task="for-ever")
    # Confirmed for no time at all: the offer's own lease still stands.
    liar.mind.next_time(wire.Start, lambda f: confirmed(f.msg, lease_ms=0))  # type: ignore[union-attr]
    await does_a_task(agent, liar, "confirmed-for-nothing")
    # The confirmation of another lease is none.
    another = LeaseKey(task_id="x", attempt=1, fence=1)
    liar.mind.next_time(wire.Start, confirmed(wire.Start(keys=(another,)), lease_ms=9))
    liar.mind.offer(builders.offer("mixed-up"))
    assert (await agent.saw("attempt.closed", task="mixed-up"))["reason"] == Reason.START_REFUSED.value
    await does_a_task(agent, liar, "after")


async def test_a_receipt_that_lies_settles_nothing_and_the_result_is_kept_until_a_true_one_comes(
    agent: AgentProcess, liar: Liar
) -> None:
    mind, stranger = liar.mind, KeyPair.generate()
    lies: list[Act] = [
        lambda f: mind.receipt(f.msg, stranger),  # type: ignore[arg-type]
        lambda f: mind.receipt(f.msg, result_sha256="00" * 32),  # type: ignore[arg-type]
        lambda f: mind.receipt(f.msg, idem_key="of another"),  # type: ignore[arg-type]
    ]
    mind.next_time(wire.Result, *lies)
    await agent.start()
    await does_a_task(agent, liar, "task")
    assert [line["check"] for line in agent.events("receipt.refused")] == ["signature", "result_sha256", "same_attempt"]
    assert mind.count(wire.Result) == len(lies) + 1
    status, listed = await agent.verb("tasks")
    assert (status, "task" in listed) == (0, True)


async def test_a_receipt_that_promises_a_round_of_drand_that_is_public_is_told(agent: AgentProcess, liar: Liar) -> None:
    known = wire.BeaconPromise(
        source=wire.BeaconSource.DRAND, round=42, commitment=QUICKNET.hash, rate_micros=1, leaves=4
    )
    liar.mind.next_time(wire.Result, lambda f: liar.mind.receipt(f.msg, beacon=known))  # type: ignore[arg-type]
    await agent.start()
    await does_a_task(agent, liar, "task")
    told = await agent.saw("receipt.beacon_known", task="task", round=42)
    assert "public before the result was sent" in told["remedy"]
    await does_a_task(agent, liar, "after")
    assert len(agent.events("receipt.beacon_known")) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"session_ttl_s": 0}, "its sessions last only 0 s"),
        ({"proto": 99}, "protocol version 99"),
        ({"session": "x\r\nCookie: y"}, "no usable session token"),
    ],
)
async def test_a_welcome_that_lies_opens_no_session(
    agent: AgentProcess, liar: Liar, changes: dict[str, object], words: str
) -> None:
    lie = msgspec.structs.replace(liar.mind.welcome("t"), **changes)
    liar.mind.next_time(wire.Hello, lie, lie)
    await agent.start()
    assert words in (await agent.saw("beat.failed", fault="broken"))["detail"]
    await does_a_task(agent, liar, "after")


async def test_a_node_that_the_coordinator_does_not_know_is_told_to_enrol_and_waits(
    agent: AgentProcess, liar: Liar
) -> None:
    known = liar.mind.nodes.pop(builders.NODE)
    await agent.start()
    line = await agent.saw("beat.failed", fault="refused")
    assert "gpu-agent enrol" in line["detail"]
    status, shown = await agent.verb("status")
    assert status == 0
    gates = " ".join(shown.partition("No new work, because:")[2].split())
    assert gates.startswith("coordinator_unreachable the coordinator refused: who is node-1?. Enrol this node"), shown
    liar.mind.nodes[builders.NODE] = known
    async with asyncio.timeout(PATIENCE_S):
        await does_a_task(agent, liar, "after")
