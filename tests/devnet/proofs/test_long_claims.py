"""A claim too large to be opened whole: each closer look asks the node for what the beacon draws, and no more."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from agent.core import wire
from agent.core.model import VerifyInput
from agent.core.payloads import Judgement, ReceiptBundle
from agent.core.proof.opening import open_leaves, read_opening
from agent.core.proof.receipt import examine, read_case
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.effects import Discard
from agent.devnet.core.proofs import opening
from agent.devnet.core.proofs.level_two import Found
from agent.devnet.core.proofs.records import Case, CaseState
from agent.devnet.core.rules import Rules
from agent.devnet.keys import verify
from agent.devnet.requester import Requester
from tests import builders
from tests.devnet.node import ScriptedNode
from tests.devnet.proofs.challenged import Opener, blob_of, honest_transcript
from tests.devnet.proofs.test_served_challenges import ASK, Hall, HandClock
from tests.devnet.proofs.validators import EVIDENCE, RULES, Bench, F, Validator, pools, says
from tests.patience import within

LONG = msgspec.structs.replace(RULES, whole_bytes=0)
TOKENS = 40 * 32
DOUBT = says(verdict="suspect", reasons=("chunk 1: 0.41 off on average",))


def challenged(bench: Bench, node: Opener) -> wire.Challenge:
    bench.settled(node, max_tokens=TOKENS)
    bench.turn(61.0)
    (challenge,) = bench.beat(node).challenges
    return challenge


def opened(bench: Bench, node: Opener, challenge: wire.Challenge) -> Case:
    """Exactly what was asked for is opened, and found good; validators are asked."""
    leaves = node.transcripts[challenge.key.task_id].leaves
    bench.open(node, challenge, open_leaves(leaves, challenge.leaves))
    case_id = bench.case_of(challenge).case_id
    evidence = blob_of(f"evidence of level {challenge.level}".encode())
    bench.take(opening.examined(bench.book, bench.when, case_id, Found(repeatable=True, determinism=F), evidence))
    return bench.case(case_id)


def doubted(bench: Bench, first: int) -> list[Validator]:
    """Two more validators doubt it."""
    pair = [bench.validator(first), bench.validator(first + 1)]
    for validator in pair:
        bench.check(validator, DOUBT)
    bench.validator(first + 10)  # who might look next
    for validator in pair:
        bench.reveal(validator)
    return pair


def test_a_doubt_leads_to_more_leaves_of_the_node_and_at_last_to_a_suspicion() -> None:
    bench = Bench(LONG)
    node = bench.opener(1)
    challenge, asked = challenged(bench, node), []
    for level, count in enumerate((4, 12, 28)):
        assert (challenge.level, challenge.challenge_id.endswith(f"/{level}")) == (level, True)
        assert len(challenge.leaves) <= count < len(node.transcripts[challenge.key.task_id].leaves)
        asked.append(set(challenge.leaves))
        assert opened(bench, node, challenge).state is CaseState.CHECKING
        pair = doubted(bench, 20 * level + 2)
        told = [sealed.offer.task.input for one in pair for sealed in one.sealed.values()]
        assert {it.leaves for it in told} == {challenge.leaves}
        assert {it.evidence for it in told} == {blob_of(f"evidence of level {level}".encode())}
        (challenge,) = bench.beat(node).challenges or (challenge,)
    assert asked[0] < asked[1] < asked[2]
    case = bench.case_of(challenge)
    assert (case.level, case.judgement) == (2, Judgement.SUSPECT)
    assert bench.standing(node).suspected == 1


def test_who_does_not_open_more_has_not_opened() -> None:
    bench = Bench(LONG)
    node = bench.opener(1)
    challenge = challenged(bench, node)
    opened(bench, node, challenge)
    doubted(bench, 2)
    assert bench.case_of(challenge).state is CaseState.CHALLENGED
    assert bench.open(node, challenge, b"the old challenge is answered") == wire.Ack()
    assert bench.case_of(challenge).state is CaseState.CHALLENGED
    bench.turn(LONG.answer_s + 1)
    case = bench.case_of(challenge)
    assert (case.judgement, bench.standing(node).unopened) == (Judgement.UNOPENED, 1)
    assert case.opening is not None


def test_that_something_could_not_be_kept_once_excuses_nobody_later() -> None:
    bench = Bench(LONG)
    node = bench.opener(1)
    challenge = challenged(bench, node)
    opening.hindered(bench.book, node.node_id)
    case = opened(bench, node, challenge)
    doubted(bench, 2)
    bench.turn(LONG.answer_s + 1)
    assert bench.case(case.case_id).judgement is Judgement.UNOPENED


def test_a_closer_look_that_finds_nothing_passes_it() -> None:
    bench = Bench(LONG)
    node = bench.opener(1)
    opened(bench, node, challenged(bench, node))
    doubted(bench, 2)
    (challenge,) = bench.beat(node).challenges
    opened(bench, node, challenge)
    pair = [bench.validator(30), bench.validator(31)]
    for validator in pair:
        bench.check(validator)
    for validator in pair:
        bench.reveal(validator)
    assert bench.case_of(challenge).judgement is Judgement.PASSED
    assert bench.standing(node).suspected == 0


@pytest.mark.parametrize("opens", [False, True])
def test_a_restart_in_between_asks_again_and_judges_nobody(opens: bool) -> None:
    bench = Bench(LONG)
    node = bench.opener(1)
    first = challenged(bench, node)
    opened(bench, node, first)
    doubted(bench, 2)
    (challenge,) = bench.beat(node).challenges
    if opens:
        leaves = node.transcripts[challenge.key.task_id].leaves
        bench.open(node, challenge, open_leaves(leaves, challenge.leaves))
    again = bench.restarted()
    assert again.examine == ([bench.case_of(challenge).case_id] if opens else [])
    assert [it.challenge_id for it in again.beat(node).challenges] == ([] if opens else [challenge.challenge_id])
    assert again.case_of(challenge).level == 1


def test_what_a_closer_look_replaces_is_deleted() -> None:
    bench = Bench(LONG)
    node, gone = bench.opener(1), []
    real = bench.take

    def noting(decision):
        gone.extend(sha256 for it in decision.notices if isinstance(it, Discard) for sha256 in it.sha256s)
        return real(decision)

    bench.take = noting  # type: ignore[method-assign]
    first = opened(bench, node, challenged(bench, node))
    doubted(bench, 2)
    assert gone == [blob_of(b"evidence of level 0").sha256]
    (challenge,) = bench.beat(node).challenges
    opened(bench, node, challenge)
    assert first.opening is not None
    assert gone[1:] == [first.opening.sha256]
    assert EVIDENCE.sha256 not in gone


async def test_over_real_sockets_the_second_look_has_more_leaves_in_its_evidence(tmp_path: Path) -> None:
    clock, options = HandClock(), Options(rules=Rules(proofs=LONG))
    async with AsyncExitStack() as stack:
        coordinator = await stack.enter_async_context(Coordinator(tmp_path, clock=clock, options=options))
        requester = await stack.enter_async_context(Requester(coordinator.url, coordinator.requester_token))
        asker = await stack.enter_async_context(ScriptedNode(coordinator.url, coordinator.public_key))
        hall = Hall(coordinator, requester, asker, clock)
        await asker.join(coordinator.enrol_token())
        task_id = await requester.submit(builders.MODEL, ASK, max_tokens=TOKENS)
        (offer,) = await asker.pull()
        await asker.deliver(hall.opener.answer(offer, honest_transcript(offer, TOKENS), determinism=F))
        hall.turn(61.0)
        seen = []
        for level in range(2):
            (challenge,) = (await asker.call(wire.Beat(), wire.BeatAck)).challenges
            await hall.open(challenge, open_leaves(hall.opener.transcripts[task_id].leaves, challenge.leaves))
            nodes = [await validating(stack, coordinator, 10 * level + seed) for seed in (2, 3)]
            seen += [set(await doubting(one, asker)) for one in nodes]
            nodes.append(await validating(stack, coordinator, 10 * level + 4))
            for one in nodes[:2]:
                await revealing(one)
    assert seen[0] == seen[1] < seen[2] == seen[3]
    assert len(seen[2]) > 4


async def validating(stack: AsyncExitStack, coordinator: Coordinator, seed: int) -> ScriptedNode:
    node = await stack.enter_async_context(ScriptedNode(coordinator.url, coordinator.public_key, seed=seed))
    node.actor = Validator(seed)
    await node.join(coordinator.enrol_token(), fingerprint=builders.fingerprint(pools=pools()))
    return node


async def doubting(node: ScriptedNode, asker: ScriptedNode) -> tuple[int, ...]:
    """Reads the evidence, which does not name `asker`, seals a doubt, and returns the leaves that are open in it."""
    offers: list[wire.OfferBody] = []
    while not offers:
        offers = await within(node.pull(wait_s=5.0))
    asked, validator = offers[0].task.input, node.actor
    assert isinstance(asked, VerifyInput)
    assert isinstance(validator, Validator)
    raw = await node.get_blob(asked.evidence.sha256)
    assert not any(name.encode() in raw for name in (asker.actor.node_id, asker.actor.keys.public))
    bundle = msgspec.json.decode(raw, type=ReceiptBundle)
    assert examine(bundle, verify, coordinator_key=node.key).error is None
    case = read_case(bundle, verify)
    shown = read_opening(bundle.opening or b"", case.commitment).opened
    assert set(asked.leaves) == set(shown)
    receipt = await node.deliver(validator.seal(offers[0], DOUBT(validator, offers[0])))
    assert receipt.status is wire.ReceiptStatus.ACCEPTED
    return shown


async def revealing(node: ScriptedNode) -> None:
    assert isinstance(node.actor, Validator)
    (challenge,) = (await node.call(wire.Beat(), wire.BeatAck)).challenges
    content = node.actor.leaf(challenge.key.task_id)
    await node.put_blob(blob_of(content).sha256, content)
    await node.call(wire.Opening(challenge_id=challenge.challenge_id, blob=blob_of(content)), wire.Ack)
