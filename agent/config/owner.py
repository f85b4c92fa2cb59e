"""The section [owner]: when the machine is its owner's alone."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from agent.config.words import says
from agent.core.model import Value


class Running(StrEnum):
    """What becomes of tasks that run when the owner needs the machine."""

    FINISH = "finish"
    HAND_BACK = "hand_back"


class OwnerConfig(Value):
    """When the machine is yours alone. New tasks then stay away; the reason shows in `gpu-agent status`."""

    schedule: Annotated[
        tuple[str, ...],
        says('When the machine may work for others, as ["mon-fri 18:00-08:00", "sat 0:00-24:00"]; empty is always.'),
    ] = ()
    time_zone: Annotated[
        str | None, says("Of the schedule; the machine's own when not set.", example="Europe/Berlin")
    ] = None
    programs: Annotated[
        tuple[str, ...], says('Your programs, as ["blender"]; while one of them runs, no new task comes.')
    ] = ()
    on_battery: Annotated[bool, says("Whether to work on battery power.")] = False
    running: Annotated[Running, says("What becomes of tasks that run then.")] = Running.FINISH
    hand_back_after_s: Annotated[
        float, Meta(ge=0, le=86_400), says("Seconds that they may go on before they are handed back.")
    ] = 30.0
