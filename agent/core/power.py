"""Which power limit a GPU gets: the owner's, within what the driver allows, and never above what it has."""

from __future__ import annotations

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


def lowered(wanted_w: int, limits: Limits) -> int | None:
    """Milliwatts to set; None where the GPU is held to no more already."""
    wanted = max(wanted_w * 1000, limits.lowest_mw)
    return wanted if wanted < limits.now_mw else None


def to_restore(kept: Kept, now_mw: int) -> int | None:
    """Milliwatts to give back; None where somebody else has changed the limit since, whose word stands."""
    return kept.before_mw if now_mw == kept.set_mw else None
