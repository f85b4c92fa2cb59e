"""A storm in which every result is challenged and nodes check one another breaks no promise of proofs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent.core.payloads import Judgement, Subject
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import ProofRules
from tests.chaos.court import court
from tests.chaos.extent import COURT_SECONDS, SEED
from tests.chaos.storm import SETTLE_S
from tests.sandboxes import require_sandbox


@pytest.mark.slow
@pytest.mark.timeout(COURT_SECONDS + 3 * SETTLE_S + 120)
async def test_after_a_storm_every_challenge_came_to_one_judgement_and_nobody_paid_for_a_fault(tmp_path: Path) -> None:
    await asyncio.to_thread(require_sandbox)
    async with court(tmp_path, SEED) as (it, nodes):
        await it.rage(COURT_SECONDS)
        await it.settle()
        found = await it.judged()
        print(f"\nseed {SEED}, {COURT_SECONDS:g} s:", json.dumps(it.told()))
        await it.calm()
        ended = [await node.agent.ended() for node in nodes]
        assert it.records().faults(ProofRules()) == []
        settled = [view.task_id for view in it.views if view.state is TaskState.SETTLED]
        assert len(settled) > len(it.views) / 2
        assert set(settled) <= {line.task_id for line in found.ledger}
        passed = [body for its in found.judged.values() for body in its if body.judgement is Judgement.PASSED]
        assert {body.subject for body in passed} == set(Subject)
        assert ended == [0] * len(nodes), [node.agent.story() for node in nodes]
        for node in nodes:
            assert node.agent.events("agent.crashed") == node.agent.events("challenge.fault") == []
            assert node.agent.events("judgement.refused") == []
            assert node.agent.noise == []
