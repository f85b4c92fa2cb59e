"""What a bundle shows of a transcript, and what drew it: in words, and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.core.payloads import BeaconSource
from agent.core.proof.leaves import Leaf
from agent.core.text import plain

if TYPE_CHECKING:
    from agent.core.payloads import Beacon
    from agent.core.proof.beacon import Draw
    from agent.core.proof.receipt import Case

Line = tuple[bool | None, str]
_MOST_NAMED = 12


def told(case: Case) -> Iterable[Line]:
    """Lines for people, of a case whose checks passed: whether it holds (None: what is not known), and the words."""
    beacon = case.bundle.beacon
    if beacon and case.draw:
        yield True, _drawn(beacon, case.draw)
    elif beacon:
        yield None, "what drand drew cannot be checked here: install gpu-agent[drand]"
    elif case.receipt.beacon and case.bundle.opening is not None:
        yield None, "who chose these leaves is not shown: the beacon that draws them is not in the bundle"
    opened, leaves = _counts(case)
    if opened < leaves:
        yield None, f"{opened} of {leaves} leaves of the transcript are shown; the others were not looked into"


def as_object(case: Case) -> dict[str, object]:
    """For programs."""
    opened, leaves = _counts(case)
    drew = case.draw
    return {
        "leaves": leaves,
        "shown": opened,
        "beacon": case.bundle.beacon and case.bundle.beacon.source.value,
        "challenged": drew and drew.challenged,
        "drawn_leaves": list(drew.leaves) if drew else [],
    }


def _drawn(beacon: Beacon, drew: Draw) -> str:
    which = "the epoch's secret" if beacon.source is BeaconSource.EPOCH else "drand's round"
    by = f"{which} that was promised ({beacon.round})"
    if not drew.challenged:
        return f"{by} did not draw this result: it was not to be challenged"
    named = ", ".join(map(str, drew.leaves[:_MOST_NAMED])) + (" …" if len(drew.leaves) > _MOST_NAMED else "")
    again = f" (after {drew.level} closer looks)" if drew.level else ""
    return plain(f"{by} drew this result and its leaves {named}{again}: nobody chose them", 300)


def _counts(case: Case) -> tuple[int, int]:
    """Leaves with output that are shown, and all there are."""
    with_output = case.leaves[:-1]
    return sum(isinstance(leaf, Leaf) for leaf in with_output), len(with_output)
