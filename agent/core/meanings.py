"""What each reason for having no work means, and what its owner can do: the same words in `status` and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from agent.core.model import Reason


class Meaning(NamedTuple):
    """One reason in plain words."""

    sentence: str
    remedy: str


MEANINGS: Final[Mapping[Reason, Meaning]] = {
    Reason.COORDINATOR_UNREACHABLE: Meaning(
        "The coordinator does not answer, or opens no session for this node.",
        "Look at this machine's network and at coordinator.url; the agent keeps trying by itself.",
    ),
    Reason.DRAINING: Meaning("What runs is finished, and nothing new is taken.", "`gpu-agent resume` ends it."),
    Reason.PAUSED: Meaning("You paused this node, or a GPU.", "`gpu-agent resume` ends it."),
    Reason.COORDINATOR_PAUSED: Meaning(
        "The coordinator asked this node to pause.", "Ask it why; `gpu-agent resume` takes up work all the same."
    ),
    Reason.OUTSIDE_SCHEDULE: Meaning(
        "No window of your schedule is open.", "Wait for the next, or see owner.schedule."
    ),
    Reason.OWNER_PROGRAM: Meaning(
        "A program of yours runs, or whether one does cannot be told.", "Close it, or see owner.programs."
    ),
    Reason.OWNER_ACTIVE: Meaning(
        "Somebody is at the machine, or whether somebody is cannot be told.",
        "Work comes by itself when nobody is; see owner.idle_only.",
    ),
    Reason.ON_BATTERY: Meaning("The machine runs on its battery.", "Plug it in, or see owner.on_battery."),
    Reason.STORAGE_FULL: Meaning(
        "What has to be kept finds no room on the disk.",
        "Free space where node.state_dir lies, or raise proof.retention_mib.",
    ),
    Reason.OUTBOX_BACKLOG: Meaning(
        "Too many finished tasks wait for a receipt.", "It is over when the coordinator takes them; see the link."
    ),
    Reason.NO_POOL: Meaning("No pool is configured.", "Add [[models]] and [[pools]] to the configuration."),
    Reason.POOL_NOT_READY: Meaning(
        "The engine is starting, or cannot start.",
        "If it does not come up, see the pool's state, the log and `gpu-agent doctor`.",
    ),
    Reason.GPU_IN_USE: Meaning(
        "A program of yours uses the GPU.", "Close it, or see owner.idle_only and owner.display_mib."
    ),
    Reason.GPU_HOT: Meaning(
        "The GPU is hotter than you allow.",
        "Wait until it is cooler, look at its fans, or see owner.max_temperature_c.",
    ),
    Reason.GPU_POWER: Meaning(
        "The GPU draws more than you allow.", "Wait until it draws less, or see owner.max_power_w."
    ),
    Reason.ATTESTING: Meaning(
        "The coordinator checks that it is a GPU.", "That takes a minute, and is over by itself."
    ),
    Reason.GPU_LOST: Meaning("The GPU cannot be used any more.", "Do what is advised beside the GPU."),
    Reason.GPU_DEGRADED: Meaning("The GPU is not well.", "Do what is advised beside the GPU."),
    Reason.GPU_UNKNOWN: Meaning(
        "The GPU was not read yet, or is not any more.", "If it lasts, `gpu-agent doctor` says what is wrong."
    ),
    Reason.TOO_MANY_FAILURES: Meaning(
        "Several tasks in a row failed by this node's own fault.",
        "It tries one again by itself; the log says what failed, and `gpu-agent doctor` looks for why.",
    ),
    Reason.NO_DEMAND: Meaning(
        "All is well here: nobody asks for the models of these pools now.", "Work comes by itself when somebody does."
    ),
}
"""One entry for every reason of `core.gates.IDLE_REASONS`."""
