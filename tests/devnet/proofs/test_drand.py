"""The public beacon draws: a promise, a round that is awaited, its value, and the challenge."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agent.core import wire
from agent.core.payloads import Beacon, BeaconSource, Judgement
from agent.core.proof.beacon import kept
from agent.core.proof.drand import QUICKNET
from agent.core.proof.drawing import is_drawn
from agent.devnet.coordinator import Coordinator, Options, StartError
from agent.devnet.core.effects import DropCase
from agent.devnet.core.proofs import epochs, sweeping
from agent.devnet.core.proofs.records import CaseState
from agent.devnet.core.rules import Instant, ProofRules, Rules
from agent.devnet.requester import Requester
from agent.edges.drand import load_bls
from tests.devnet.node import ScriptedNode
from tests.devnet.proofs.challenged import ALWAYS, Court
from tests.devnet.proofs.test_beacons import FIRST, NEWEST, Relays, relays  # noqa: F401  (a fixture)
from tests.devnet.proofs.test_served_challenges import Hall, HandClock
from tests.patience import PATIENCE_S

BY_DRAND = msgspec.structs.replace(ALWAYS, beacon=BeaconSource.DRAND)
MARGIN_S = 2 * QUICKNET.period_s


def court_of(proofs: ProofRules = BY_DRAND) -> Court:
    """One to which drand has shown its first round."""
    court = Court(proofs)
    court.take(sweeping.beacon(court.book, court.when, told(1)))
    return court


COURT = Court(BY_DRAND)
TASK = COURT.book.tasks[COURT.submit()]


def told(number: int, value: str = "77" * 32) -> Beacon:
    return Beacon(source=BeaconSource.DRAND, round=number, value=value)


def test_a_receipt_promises_a_round_that_nobody_can_know_yet() -> None:
    court = court_of()
    promise = court.settled(court.opener()).beacon
    assert (promise.source, promise.commitment) == ("drand", QUICKNET.hash)
    assert QUICKNET.time_of(promise.round) >= court.when.at + 2 * QUICKNET.period_s


def test_results_wait_for_their_round_which_draws_some_and_forgets_the_others() -> None:
    court = court_of(msgspec.structs.replace(BY_DRAND, rate_micros=500_000))
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
    court = court_of()
    node = court.opener()
    number = court.settled(node).beacon.round
    again = court.restarted()
    again.turn(60.0)
    again.take(sweeping.beacon(again.book, again.when, told(number)))
    assert len(again.restarted().beat(node).challenges) == 1


def test_a_round_that_comes_twice_changes_nothing() -> None:
    court = court_of()
    node = court.opener()
    number = court.settled(node).beacon.round
    for _ in range(2):
        court.take(sweeping.beacon(court.book, court.when, told(number)))
    assert len(court.pushed) == 1


def test_a_round_that_never_comes_blames_nobody() -> None:
    court = court_of()
    node = court.opener()
    court.settled(node)
    (case,) = court.docket.cases.values()
    court.turn(82_000.0)
    assert court.case(case.case_id).state is CaseState.WAITING
    court.turn(1000.0)
    assert court.case(case.case_id).judgement is Judgement.VOID
    assert court.standing(node).stake_micros == ALWAYS.stake_micros


def test_a_clock_that_is_late_promises_no_round_that_drand_has_shown() -> None:
    court = court_of()
    shown = QUICKNET.round_to_promise(court.when.at) + 10_000
    court.take(sweeping.beacon(court.book, court.when, told(shown)))
    node = court.opener()
    promise = court.settled(node).beacon
    assert QUICKNET.time_of(promise.round) >= QUICKNET.time_of(shown) + MARGIN_S
    court.turn(30.0)
    assert QUICKNET.time_of(court.settled(node).beacon.round) >= QUICKNET.time_of(shown) + 30 + MARGIN_S


def test_a_clock_that_is_late_has_no_round_fetched_later() -> None:
    """By the time that a clock that is hours behind comes to it, transcripts would be gone."""
    court = court_of()
    court.take(sweeping.beacon(court.book, court.when, told(QUICKNET.round_to_promise(court.when.at) + 10_000)))
    number = court.settled(court.opener()).beacon.round
    assert epochs.awaited(court.book, court.when) == ()
    court.turn(30.0)
    assert epochs.awaited(court.book, court.when) == (number,)


def test_before_drand_has_shown_anything_epochs_draw() -> None:
    court = Court(BY_DRAND)
    node = court.opener()
    assert court.settled(node).beacon.source is BeaconSource.EPOCH
    court.turn(61.0)
    assert len(court.beat(node).challenges) == 1
    court.take(sweeping.beacon(court.book, court.when, told(1)))
    assert court.settled(node).beacon.source is BeaconSource.DRAND


@given(
    shown=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**8)), min_size=1, max_size=6),
    wall=st.integers(QUICKNET.genesis_at - 10**6, QUICKNET.genesis_at + 10**9),
    after=st.floats(0, 10**6),
)
def test_no_promise_names_a_round_that_could_be_public(shown: list[tuple[int, int]], wall: int, after: float) -> None:
    """Whatever drand has shown when, and wherever the clock stands: what was public then has grown older since."""
    court, latest, public = COURT, 0.0, 0.0
    court.docket.drand_ahead = None
    for now, number in sorted(shown):
        epochs.shown(court.book, Instant(now, wall), number)
        public, latest = max(public + now - latest, QUICKNET.time_of(number)), now
    number = epochs.promise(court.book, Instant(latest + after, wall), "n-1", TASK).round
    assert QUICKNET.time_of(number) >= max(wall, public + after) + MARGIN_S


async def test_without_a_way_to_check_signatures_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"gpu-agent\[drand\]"):
        async with Coordinator(tmp_path, options=Options(rules=Rules(proofs=BY_DRAND))):
            pass


class RelayClock(HandClock):
    """At the time of a recorded round; whoever sleeps is woken by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_from = QUICKNET.time_of(NEWEST) - 2 * QUICKNET.period_s - self.now
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
        assert promise.round == challenge.beacon.round == NEWEST
        kept(promise, challenge.beacon, load_bls())
        await hall.open(challenge)
        assert await hall.judged(challenge) is Judgement.PASSED


async def test_a_coordinator_whose_clock_is_late_asks_drand_before_it_promises(
    tmp_path: Path,
    relays: Relays,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = RelayClock()
    clock.wall_from = QUICKNET.time_of(FIRST) - clock.now
    relays.newest = NEWEST
    options = Options(rules=Rules(proofs=BY_DRAND), bls=load_bls(), drand_relays=(await relays.start(),))
    async with (
        Coordinator(tmp_path, clock=clock, options=options) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
        ScriptedNode(coordinator.url, coordinator.public_key) as node,
    ):
        await node.join(coordinator.enrol_token())
        task_id = await Hall(coordinator, requester, node, clock).settled()
        receipt = (await requester.receipt(task_id)).receipt
        promise = msgspec.json.decode(receipt.payload, type=wire.ReceiptBody).beacon
    assert QUICKNET.time_of(promise.round) >= QUICKNET.time_of(NEWEST) + MARGIN_S
    assert [it.message[:10] for it in caplog.records if it.levelno == logging.WARNING] == ["clock.late"]


async def test_relays_that_tell_nothing_are_logged_once_a_minute_with_what_draws_meanwhile(
    tmp_path: Path,
    relays: Relays,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = RelayClock()
    url = await relays.start(lambda answer, _: web.Response(status=503))
    options = Options(rules=Rules(proofs=BY_DRAND), bls=load_bls(), drand_relays=(url,))
    async with Coordinator(tmp_path, clock=clock, options=options):
        await _asked(relays, clock, 3)
        [told] = [it.message for it in caplog.records if it.levelno == logging.WARNING]
        assert told.startswith("beacon.unknown epochs draw until one does; ")
        clock.now += 60.0
        await _asked(relays, clock, 6)
    assert len([it for it in caplog.records if it.levelno == logging.WARNING]) == 2


async def _asked(these: Relays, clock: RelayClock, times: int) -> None:
    """Until the relays were asked so often and their answer was heard."""
    async with asyncio.timeout(PATIENCE_S):
        while len(these.asked) < times + 1:
            clock.woken.set()
            await asyncio.sleep(0)
