"""`make chaos`: after any storm every task has exactly one accepted result, or a failure that was told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.devnet.core.records import TaskState
from tests.chaos.extent import SECONDS, SEED
from tests.chaos.storm import SETTLE_S, storm


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + SETTLE_S + 120)
async def test_after_a_storm_every_task_has_one_accepted_result_or_a_told_failure(tmp_path: Path) -> None:
    async with storm(tmp_path, SEED) as (it, nodes):
        await it.rage(SECONDS)
        await it.calm()
        print(f"\nseed {SEED}, {SECONDS:g} s:", json.dumps(it.told()))
        ended = [await node.agent.ended() for node in nodes]
        settled = [view.task_id for view in it.views if view.state is TaskState.SETTLED]
        failed = [view for view in it.views if view.state is not TaskState.SETTLED]
        assert len(set(it.tasks)) == len(it.tasks) == len(it.views)
        assert sorted(it.paid) == sorted(settled)
        assert all(view.state is TaskState.FAILED and view.detail and view.story for view in failed), failed
        assert len(settled) > len(failed)
        known = it.paid_to()
        assert {task: holders for task, holders in known.items() if len(holders) > 1} == {}
        assert set(known) <= set(it.paid)
        assert ended == [0, 0], [node.agent.story() for node in nodes]
        for node in nodes:
            assert node.agent.events("agent.crashed") == []
            assert node.agent.noise == []
            assert node.agent.events("drain.ended")[-1]["undelivered"] == 0
