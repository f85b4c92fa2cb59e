"""Why no work comes: the closed list, and no demand told apart from everything else."""

from __future__ import annotations

import re
from pathlib import Path

from agent.core import wire
from agent.core.gates import IDLE_REASONS
from agent.core.model import Reason
from tests import builders
from tests.stages.rig import Rig

AGENT = Path(__file__).parents[2] / "agent"


def test_no_gate_has_a_reason_that_the_closed_list_lacks() -> None:
    text = "".join(file.read_text() for folder in ("core", "stages") for file in (AGENT / folder).glob("*.py"))
    used = {Reason[name] for name in re.findall(r"Gate(?:Changed)?\([^)]*?reason=Reason\.(\w+)", text)}
    used |= {Reason[name] for name in re.findall(r"HealthState\.\w+: Reason\.(\w+)", text)}
    assert {Reason.PAUSED, Reason.GPU_LOST, Reason.NO_DEMAND, Reason.STORAGE_FULL, Reason.ON_BATTERY} <= used
    assert used <= set(IDLE_REASONS)


async def test_since_when_nothing_was_offered_is_known_while_somebody_asks() -> None:
    async with Rig() as rig:
        await rig.coordinator.saw(wire.Pull)
        began = rig.clock.monotonic()
        assert rig.pull.asking_since == began
        rig.coordinator.offer_signed()  # an empty answer: there is no work
        await rig.pass_time(30.0)
        await rig.coordinator.saw(wire.Pull, 2)
        assert rig.pull.asking_since == began, "asking again is still the same wait"
        rig.coordinator.offer(builders.offer())
        await rig.until(lambda: rig.pull.asking_since != began)


async def test_a_coordinator_that_cannot_be_asked_is_no_lack_of_demand() -> None:
    async with Rig() as rig:
        await rig.coordinator.saw(wire.Pull)
        rig.coordinator.down = True
        rig.coordinator.offer_signed()
        await rig.pass_time(5.0)
        await rig.until(lambda: rig.pull.asking_since is None)
