from __future__ import annotations

import asyncio
import threading

import pytest

from agent.core.errors import StorageError
from agent.edges.lane import Lane


class Groups:
    """Work that remembers its groups, doubles numbers, and fails for what is no number."""

    def __init__(self) -> None:
        self.seen: list[list[object]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, jobs: list[object]) -> list[object | Exception]:
        self.go.wait(10)
        self.seen.append(jobs)
        if "bug" in jobs:
            raise KeyError("a bug")
        return [job * 2 if isinstance(job, int) else ValueError(f"{job} is no number") for job in jobs]


@pytest.fixture
def groups() -> Groups:
    return Groups()


async def test_what_is_asked_for_in_one_turn_is_one_group_in_order(groups: Groups):
    lane = Lane("test", groups, group_max=100)
    assert await asyncio.gather(*(lane.do(number) for number in range(16))) == [2 * number for number in range(16)]
    assert groups.seen == [list(range(16))]
    await lane.close()


async def test_what_gathers_while_the_thread_works_is_one_group_of_bounded_size(groups: Groups):
    groups.go.clear()
    lane = Lane("test", groups, group_max=4)
    asked = []
    for number in range(10):
        asked.append(asyncio.create_task(lane.do(number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    groups.go.set()
    await asyncio.gather(*asked)
    assert [job for group in groups.seen for job in group] == list(range(10))
    assert max(map(len, groups.seen)) == 4
    assert len(groups.seen) <= 5
    await lane.close()


async def test_each_caller_gets_its_own_failure_and_a_bug_ends_no_lane(groups: Groups):
    lane = Lane("test", groups, group_max=10)
    outcomes = await asyncio.gather(lane.do(1), lane.do("x"), lane.do(2), return_exceptions=True)
    assert outcomes[::2] == [2, 4]
    assert isinstance(outcomes[1], ValueError)
    with pytest.raises(KeyError):
        await lane.do("bug")
    assert await lane.do(3) == 6
    await lane.close()


async def test_closing_does_what_was_asked_for_and_refuses_more(groups: Groups):
    lane = Lane("test", groups, group_max=10)
    asked = asyncio.create_task(lane.do(1))
    await asyncio.sleep(0)
    await lane.close()
    assert await asked == 2
    with pytest.raises(StorageError, match="test is closed"):
        await lane.do(2)
    await lane.close()


async def test_nothing_is_done_for_who_has_given_up_before(groups: Groups):
    lane = Lane("test", groups, group_max=10)
    asked = [asyncio.create_task(lane.do(number)) for number in (1, 2)]
    asyncio.get_running_loop().call_soon(asked[0].cancel)  # before the group goes over
    assert await asked[1] == 4
    assert groups.seen == [[2]]
    await lane.close()


def test_a_loop_that_ends_first_leaves_no_broken_thread(groups: Groups):
    groups = Groups()
    groups.go.clear()
    lane = Lane("test", groups, group_max=10)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await lane.do(1)

    asyncio.run(give_up())
    groups.go.set()
    asyncio.run(lane.close())
    assert not lane._thread.is_alive()
