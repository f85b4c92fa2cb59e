"""The loops: what runs, and how long each may be silent."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from agent.compose.path import TaskPath
from agent.compose.trunk import Trunk
from agent.compose.watchers import Watchers
from agent.core import events as ev
from agent.core.watchdog import Tally
from agent.stages.advertise import Advertise
from agent.stages.watch import Watch

BOUNDS_S = {
    "owner": 60.0,
    **{"probe": 60.0, "advertise": 240.0, "watch": 30.0, "report": 900.0},
    **{"pull": 240.0, "execute": 60.0, "stream": 240.0, "prove": 60.0, "store": 60.0},
}
"""Longest silence of each loop. Advertise: a call may open a session (45 s) and be repeated in a new one, then the
longest beat (72 s) follows; pull and stream likewise. Report: a batch of results with one 64 MiB blob on a slow line.
The others hand on what they take, and may be silent only while nothing waits for them."""

Loops = dict[str, Coroutine[Any, Any, None]]


def loops_of(trunk: Trunk, path: TaskPath, watchers: Watchers, advertise: Advertise, pools: Iterable[str]) -> Loops:
    """One task for each; none has begun."""
    return {
        "probe": watchers.probe.run(),
        "advertise": advertise.run(),
        "pull": path.pull.run(pools),
        "execute": path.execute.run(),
        "stream": path.stream.run(),
        "prove": path.prove.run(),
        "report": path.report.run(),
        "deliver": path.deliver.run(),
        "hearing": path.hearing.run(),
        "attest": watchers.attest.run(),
        "owner": watchers.owner.run(),
        "watch": Watch(trunk.spine, trunk.pulse, _tallies(trunk, path)).run(),
    }


def _tallies(trunk: Trunk, path: TaskPath) -> dict[str, Callable[[], Tally]]:
    """Of the loops that act on demand."""
    return {
        "pull": path.pull.tally,
        "execute": partial(trunk.spine.tally, ev.StopWork),
        "stream": path.stream.tally,
        "prove": partial(trunk.spine.tally, ev.Prove),
        "store": partial(trunk.spine.tally, ev.StoreResult),
    }
