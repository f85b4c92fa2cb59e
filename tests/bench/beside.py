"""How long the agent's loop is held up while a program in a sandbox takes all that it can get."""

from __future__ import annotations

import tempfile
from pathlib import Path

from agent.edges.sandbox.bubblewrap import Bubblewrap
from tests.bench.table import Row, at_most
from tests.bombs import BOMBS, set_off

LATE_MS = 500.0
"""A tenth of the time between two heartbeats."""


async def bombs() -> list[Row]:
    """A row for each of the programs."""
    with tempfile.TemporaryDirectory() as home:
        box = Bubblewrap(Path(home))
        if not (facts := await box.probe()).usable:
            return [Row("hostile programs", f"skipped: {facts.detail}")]
        return [await _row(box, name) for name in BOMBS]


async def _row(box: Bubblewrap, name: str) -> Row:
    blast = await set_off(box, BOMBS[name])
    what = f"longest pause of the agent's loop beside a program that takes all {name} ({blast.end.kind})"
    return at_most(what, blast.pause_s * 1000, LATE_MS, "ms", 0)
