"""The rows of the matrix. Each says what is tried, how often, and what must become of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.attack.field import Field
from tests.attack.outcome import Counts

Attack = Callable[[Field, int], Awaitable[Counts]]


class Wanted(NamedTuple):
    """What a row must show; None where nothing is claimed."""

    caught: float | None = None
    """Least share that does not pass."""
    slashed: float | None = None
    """Largest share that fails, of the honest."""
    suspect: float | None = None
    """Largest share that is looked at again, of the honest."""

    def met(self, counts: Counts) -> bool | None:
        """None where nothing is claimed."""
        if self == Wanted():
            return None
        return (
            (self.caught is None or counts.caught >= self.caught * counts.runs)
            and (self.slashed is None or counts.failed <= self.slashed * counts.runs)
            and (self.suspect is None or counts.suspect <= self.suspect * counts.runs)
        )


class Row(NamedTuple):
    """One line of the table."""

    title: str
    """What is tried."""
    full: int
    """How often in a whole run."""
    wanted: Wanted
    attack: Attack


HONEST = Wanted(slashed=0.0, suspect=0.005)
ALL = Wanted(caught=1.0)
NO_CLAIM = Wanted()
ROWS: dict[str, Row] = {}


def row(name: str, title: str, full: int, wanted: Wanted = ALL) -> Callable[[Attack], Attack]:
    """Enters a function into the matrix."""

    def entered(attack: Attack) -> Attack:
        ROWS[name] = Row(title, full, wanted, attack)
        return attack

    return entered
