"""Judged cases are in the database alone: memory does not grow with them, and nothing that was said of them is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from agent.core import wire
from agent.core.errors import StorageError
from agent.core.payloads import Judgement
from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.rules import Rules
from agent.devnet.proof_views import Proofs, Stage
from agent.devnet.requester import Requester
from agent.devnet.tidying import Tidier
from tests.devnet.proofs.challenged import ALWAYS, blob_of
from tests.devnet.proofs.test_served_challenges import Hall, hall
from tests.patience import PATIENCE_S


async def judged(it: Hall, count: int, **seed: int) -> list[wire.Challenge]:
    """So many tasks that were challenged, opened and judged."""
    challenges = []
    for _ in range(count):
        challenges.append(await it.challenge(**seed))
        await it.open(challenges[-1])
        await it.judged(challenges[-1])
    return challenges


async def told(
    requester: Requester, challenges: list[wire.Challenge]
) -> tuple[Proofs, list[wire.ReceiptBundle], list[object]]:
    """All that a requester can ask of them."""
    tasks = [it.key.task_id for it in challenges]
    views = [(await requester.task(task)).proof for task in tasks]
    return await requester.proofs(), [await requester.proof(task) for task in tasks], views


async def test_memory_holds_open_cases_alone_and_a_restart_loses_no_judged_one(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        docket = it.coordinator.desk.book.docket
        done = []
        for number in range(3):
            done += await judged(it, 3)
            assert (len(docket.cases), len(docket.of_task), len(docket.of_check)) == (0, 0, 0), number
        waiting = await it.challenge()
        before = await told(it.requester, done)
        assert [case.stage for case in before[0].cases] == [Stage.CHALLENGED, *[Stage.JUDGED] * 9]
        assert [case.task_id for case in before[0].cases[1:]] == [one.key.task_id for one in reversed(done)]
        assert {view.judgement for view in before[2]} == {Judgement.PASSED}
        assert (await it.requester.proofs(limit=3)).cases == before[0].cases[:3]
    async with Coordinator(tmp_path, options=Options(rules=Rules(proofs=ALWAYS)), clock=it.clock) as again:
        assert [case.task_id for case in again.desk.book.docket.cases.values()] == [waiting.key.task_id]
        async with Requester(again.url, again.requester_token) as requester:
            after = await told(requester, done)
    assert (after[0].cases[1:], after[1:]) == (before[0].cases[1:], before[1:])


async def test_an_answer_that_is_repeated_after_the_judgement_is_taken_again_also_after_a_restart(
    tmp_path: Path,
) -> None:
    async with hall(tmp_path) as it:
        (challenge,) = await judged(it, 1)
        await it.open(challenge)
        actor = it.node.actor
    async with hall(tmp_path) as again:
        again.node.actor = actor
        await again.node.hello()
        opening = wire.Opening(challenge_id=challenge.challenge_id, blob=blob_of(b"anything"))
        await again.node.call(opening, wire.Ack)
        proofs = await again.requester.proofs()
        assert [case.judgement for case in proofs.cases] == [Judgement.PASSED]


async def test_exhibits_go_after_a_while_but_not_what_a_node_was_slashed_for(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        (passed,) = await judged(it, 1)
        (failed,) = await judged(it, 1, seed=1234)
        files = {path.name for path in (tmp_path / "exhibits").iterdir()}
        tidier = Tidier(it.coordinator.desk, it.clock)
        it.turn(ALWAYS.keep_s - 200.0)
        await tidier.tidy()
        assert {path.name for path in (tmp_path / "exhibits").iterdir()} == files
        it.turn(300.0)
        await tidier.tidy()
        (kept,) = (tmp_path / "exhibits").iterdir()
        assert kept.name == blob_of(it.opener.opened(failed.key.task_id)).sha256
        assert (await it.requester.proof(passed.key.task_id)).opening is None
        assert (await it.requester.proof(failed.key.task_id)).opening == kept.read_bytes()
    async with hall(tmp_path):
        assert list((tmp_path / "exhibits").iterdir()) == [kept]


async def test_leaves_that_another_case_names_too_stay(tmp_path: Path) -> None:
    """The same prompt and seed draw the same tokens."""
    async with hall(tmp_path) as it:
        first = await it.challenge()
        await it.open(first, b"the same bytes, which are no opening")
        assert await it.judged(first) is Judgement.UNOPENED  # that stays
        second = await it.challenge()
        await it.open(second)
        await it.judged(second)
        desk = it.coordinator.desk
        same = blob_of(b"the same bytes, which are no opening").sha256
        desk.discarded.put_nowait((same,))
        await Tidier(desk, it.clock).tidy()
        assert desk.exhibits.path_of(same).exists()


async def test_leaves_of_a_case_that_is_judged_while_the_database_is_asked_stay(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        desk, docket = it.coordinator.desk, it.coordinator.desk.book.docket
        await it.challenge()
        leaves = await desk.exhibits.write(b"leaves")
        (case,) = docket.cases.values()
        docket.put(msgspec.structs.replace(case, opening=leaves))
        desk.discarded.put_nowait((leaves.sha256,))
        tidying = asyncio.create_task(Tidier(desk, it.clock).tidy())
        async with asyncio.timeout(PATIENCE_S):
            while not desk.discarded.empty():
                await asyncio.sleep(0)
        docket.put(case)  # from now on memory does not name them, as the database did not when it was asked
        await tidying
        assert desk.exhibits.path_of(leaves.sha256).exists()


def as_an_older_version_left_them(file: sqlite3.Connection) -> None:
    file.execute("INSERT INTO cases (case_id, doc) SELECT case_id, doc FROM judged_cases ORDER BY line")
    file.execute("DELETE FROM judged_cases")


async def test_judged_cases_of_an_older_version_that_cannot_be_moved_all_stay_where_they_are(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        done = await judged(it, 2)
    path = tmp_path / "coordinator.sqlite"
    with sqlite3.connect(path) as file:
        as_an_older_version_left_them(file)
        (last,) = file.execute("SELECT max(case_id) FROM cases").fetchone()
        stops = "BEFORE INSERT ON judged_cases WHEN new.case_id = "
        file.execute(f"CREATE TRIGGER full {stops}'{last}' BEGIN SELECT raise(ABORT, 'disk full'); END")
    with pytest.raises(StorageError, match="disk full"):
        async with hall(tmp_path):
            pass
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM cases").fetchone() == (len(done),)
        assert file.execute("SELECT count(*) FROM judged_cases").fetchone() == (0,)


async def test_judged_cases_of_an_older_version_are_found_where_they_were_left(tmp_path: Path) -> None:
    async with hall(tmp_path) as it:
        done = await judged(it, 2)
        before = await told(it.requester, done)
    with sqlite3.connect(tmp_path / "coordinator.sqlite") as file:
        as_an_older_version_left_them(file)
    async with hall(tmp_path) as again:
        assert again.coordinator.desk.book.docket.cases == {}
        after = await told(again.requester, done)
    assert msgspec.json.encode((after[0].cases, after[1:])) == msgspec.json.encode((before[0].cases, before[1:]))
