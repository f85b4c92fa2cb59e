from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.devnet.coordinator import Coordinator, Options
from agent.devnet.core.rules import Rules
from agent.devnet.requester import Requester
from tests.scenarios.engine import HeldEngine
from tests.scenarios.world import World

QUICK = Rules(beat_s=1.0, lease_s=8.0, unstarted_s=4.0, pause_after_failure_s=0.1, pause_after_decline_s=1.0)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    async with Coordinator(tmp_path / "coordinator", options=Options(rules=QUICK)) as running:
        yield running


@pytest.fixture
async def world(coordinator: Coordinator, tmp_path: Path) -> AsyncIterator[World]:
    async with Requester(coordinator.url, coordinator.requester_token) as requester:
        world = World(coordinator.url, requester, coordinator.enrol_token, tmp_path)
        yield world
        await world.close()


@pytest.fixture
async def engine() -> AsyncIterator[HeldEngine]:
    async with HeldEngine() as running:
        yield running
