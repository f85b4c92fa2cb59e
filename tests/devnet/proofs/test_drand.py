"""The public beacon draws: a promise, a round that is awaited, its value, and the challenge."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from agent.core import wire
from agent.core.payloads import Beacon, BeaconSource, Judgement
from agent.core.proof.beacon import kept
from agent.core.proof.drand import QUICKNET
from agent.core.proof.drawing import is_drawn
from agent.devnet.coordinator import Coordinator, Options, StartError
from agent.devnet.core.effects import DropCase
from agent.devnet.core.proofs import epochs, sweeping
from agent.devnet.core.proofs.records import CaseState
from agent.devnet.core.rules import Rules
from agent.devnet.requester import Requester
from agent.edges.drand import load_bls
from tests.devnet.node import ScriptedNode
from tests.devnet.proofs.challenged import ALWAYS, Court
from tests.devnet.proofs.test_beacons import RECORDED, Relays, relays  # noqa: F401  (a fixture)
from tests.devnet.proofs.test_served_challenges import Hall, HandClock
from tests.patience import PATIENCE_S

BY_DRAND = msgspec.structs.replace(ALWAYS, beacon=BeaconSource.DRAND)
RECORDED_ROUND = max(number for chain, number in RECORDED if chain == QUICKNET.hash)


def told(number: int, value: str = "77" * 32) -> Beacon:
    return Beacon(source=BeaconSource.DRAND, round=number, value=value)


def test_a_receipt_promises_a_round_that_nobody_can_know_yet() -> None:
    court = Court(BY_DRAND)
    promise = court.settled(court.opener()).beacon
    assert (promise.source, promise.commitment) == ("drand", QUICKNET.hash)
    assert QUICKNET.time_of(promise.round) >= court.when.at + 2 * QUICKNET.period_s


def test_results_wait_for_their_round_which_draws_some_and_forgets_the_others() -> None:
    court = Court(msgspec.structs.replace(BY_DRAND, rate_micros=500_000))
    node = court.opener()
    receipts = [court.settled(node) for _ in range(20)]
    number = receipts[0].beacon.round
    assert epochs.awaited(court.book, court.when) == ()
    court.turn(60.0)
    assert epochs.awaited(court.book, court.when) == (number,)
    assert court.beat(node).challenges == ()
    court.take(sweeping.beacon(court.book, court.when, told(number)))
    drawn = {it.task_id for it in receipts if is_drawn(b"\x77" * 32, it.commitment_root, it.task_id, 500_000)}
    assert {case.task_id for case in court.docket.cases.values()} == drawn
    assert len([it for it in court.writes if isinstance(it, DropCase)]) == 20 - len(drawn) > 0
    assert {it.key.task_id for it in court.beat(node).challenges} == drawn
    assert epochs.awaited(court.book, court.when) == ()


def test_a_restart_while_a_round_is_awaited_forgets_no_result() -> None:
    court = Court(BY_DRAND)
    node = court.opener()
    number = court.settled(node).beacon.round
    again = court.restarted()
    again.turn(60.0)
    again.take(sweeping.beacon(again.book, again.when, told(number)))
    assert len(again.restarted().beat(node).challenges) == 1


def test_a_round_that_comes_twice_changes_nothing() -> None:
    court = Court(BY_DRAND)
    node = court.opener()
    number = court.settled(node).beacon.round
    for _ in range(2):
        court.take(sweeping.beacon(court.book, court.when, told(number)))
    assert len(court.pushed) == 1


def test_a_round_that_never_comes_blames_nobody() -> None:
    court = Court(BY_DRAND)
    node = court.opener()
    court.settled(node)
    (case,) = court.docket.cases.values()
    court.turn(86_000.0)
    assert court.docket.cases[case.case_id].state is CaseState.WAITING
    court.turn(1000.0)
    assert court.docket.cases[case.case_id].judgement is Judgement.VOID
    assert court.standing(node).stake_micros == ALWAYS.stake_micros


async def test_without_a_way_to_check_signatures_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"gpu-agent\[drand\]"):
        async with Coordinator(tmp_path, options=Options(rules=Rules(proofs=BY_DRAND))):
            pass


class RelayClock(HandClock):
    """At the time of a recorded round; whoever sleeps is woken by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_from = QUICKNET.time_of(RECORDED_ROUND) - 2 * QUICKNET.period_s - self.now
        self.woken = asyncio.Event()

    def wall(self) -> float:
        return self.wall_from + self.now

    async def sleep(self, seconds: float) -> None:
        await self.woken.wait()
        self.woken.clear()


async def test_a_recorded_round_is_fetched_checked_and_draws(tmp_path: Path, relays: Relays) -> None:  # noqa: F811
    clock = RelayClock()
    url = await relays.start()
    options = Options(rules=Rules(proofs=BY_DRAND), bls=load_bls(), drand_relays=(url,))
    async with (
        Coordinator(tmp_path, clock=clock, options=options) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
        ScriptedNode(coordinator.url, coordinator.public_key, stream=True) as node,
    ):
        hall = Hall(coordinator, requester, node, clock)
        await node.join(coordinator.enrol_token())
        task_id = await hall.settled()
        clock.now += 60.0
        async with asyncio.timeout(PATIENCE_S):
            while node.pushes.empty():
                clock.woken.set()
                await asyncio.sleep(0)
        challenge = node.pushes.get_nowait()
        assert isinstance(challenge, wire.Challenge)
        receipt = (await requester.receipt(task_id)).receipt
        promise = msgspec.json.decode(receipt.payload, type=wire.ReceiptBody).beacon
        assert promise.round == challenge.beacon.round == RECORDED_ROUND
        kept(promise, challenge.beacon, load_bls())
        await hall.open(challenge)
        assert await hall.judged(challenge) is Judgement.PASSED
