"""Which power limit a GPU gets: the owner's, within what the driver allows, and never above what it has."""

from __future__ import annotations

import msgspec

from agent.core.model import Value


class Limits(Value):
    """Of one GPU, in milliwatts."""

    now_mw: int
    lowest_mw: int
    """That the driver takes."""


class Kept(Value):
    """What was changed on one GPU, so that it can be given back."""

    before_mw: int
    set_mw: int


class Notes(Value):
    """All that whoever gives back needs to know: by then the configuration may be gone, or say something else."""

    library: str = ""
    """By which the limits were set; empty: the system's."""
    gpus: dict[str, Kept] = msgspec.field(default_factory=dict)
    """By UUID."""


def lowered(wanted_w: int, limits: Limits) -> int | None:
    """Milliwatts to set; None where the GPU is held to no more already."""
    wanted = max(wanted_w * 1000, limits.lowest_mw)
    return wanted if wanted < limits.now_mw else None


def noted(limit_mw: int, limits: Limits, earlier: Kept | None) -> Kept:
    """What to note before `limit_mw` is set; `earlier` is of a run that never gave back. It counts for as long as its
    limit stands: what somebody else has set since is what the GPU had."""
    mine = earlier is not None and earlier.set_mw == limits.now_mw
    return Kept(before_mw=earlier.before_mw if earlier and mine else limits.now_mw, set_mw=limit_mw)


def to_restore(kept: Kept, now_mw: int) -> int | None:
    """Milliwatts to give back; None where somebody else has changed the limit since, whose word stands."""
    return kept.before_mw if now_mw == kept.set_mw else None
