"""The table: what was tried, how often, what became of it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.attack.outcome import Counts, interval
from tests.attack.rows import ROWS, Row


def line(name: str, counts: Counts) -> str:
    """For the terminal."""
    low, high = interval(counts.caught, counts.runs)
    by = ", ".join(f"{check} {times}" for check, times in counts.by)
    return (
        f"{name}: {counts.runs} runs, {counts.passed} passed, {counts.suspect} suspect, {counts.failed} failed, "
        f"{counts.refused} refused; caught {low:.1%} to {high:.1%}; {by}; {counts.figures}"
    )


def render(made: Mapping[str, Counts]) -> str:
    return "\n".join(_row(name, ROWS[name], counts) for name, counts in made.items())


def _row(name: str, row: Row, counts: Counts) -> str:
    return line(name, counts)
