"""The section [owner]: when the machine is its owner's alone."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from agent.config.sections.words import says
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
    programs_after_s: Annotated[
        float, Meta(ge=0, le=86_400), says("Seconds after the last of them has ended before work comes.")
    ] = 60.0
    on_battery: Annotated[bool, says("Whether to work on battery power.")] = False
    idle_only: Annotated[
        bool,
        says(
            "Whether to work only while nobody is at the machine (systemd-logind) and no program of yours uses a GPU."
        ),
    ] = False
    idle_after_s: Annotated[
        float, Meta(ge=0, le=86_400), says("With idle_only: seconds without a sign of you before work comes.")
    ] = 300.0
    display_mib: Annotated[
        int,
        Meta(ge=0, le=1 << 20),
        says("With idle_only: GPU memory in MiB up to which a program that draws is your desktop, not your use of it."),
    ] = 512
    max_temperature_c: Annotated[
        Annotated[float, Meta(ge=30, le=120)] | None,
        says("A GPU that is hotter takes no new task; no limit of yours when not set.", example=80.0),
    ] = None
    cool_down_c: Annotated[
        float, Meta(ge=1, le=60), says("Degrees below max_temperature_c at which it takes tasks again.")
    ] = 10.0
    max_power_w: Annotated[
        Annotated[float, Meta(ge=10, le=10_000)] | None,
        says("A GPU that draws more takes no new task; no limit of yours when not set.", example=300.0),
    ] = None
    power_margin_w: Annotated[
        float, Meta(ge=1, le=5_000), says("Watts below max_power_w at which it takes tasks again.")
    ] = 50.0
    power_limit_w: Annotated[
        Annotated[int, Meta(ge=10, le=10_000)] | None,
        says(
            "Watts that no GPU may draw while the service runs; set by gpu-agent-power.service (docs/owner.md).",
            example=250,
        ),
    ] = None
    unload: Annotated[
        bool,
        says("Whether engines on GPUs end while you want the machine, as in a pause, so that their memory is free."),
    ] = True
    running: Annotated[Running, says("What becomes of tasks that run then.")] = Running.FINISH
    hand_back_after_s: Annotated[
        float, Meta(ge=0, le=86_400), says("Seconds that they may go on before they are handed back.")
    ] = 30.0
