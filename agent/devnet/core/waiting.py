"""Pulls that wait for work, first come, first served per model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.core.wire import Credit


@dataclass(frozen=True, slots=True)
class ParkedPull:
    """A node's unanswered question for work."""

    pull_id: int
    node_id: str
    credits: tuple[Credit, ...]
    since: float
    """Monotonic time at which it was asked: what the node is told counts from then."""
    until: float
    """Monotonic time at which it is answered empty."""

    @property
    def models(self) -> frozenset[str]:
        return frozenset(credit.model_digest for credit in self.credits)


class Waiting:
    """All parked pulls."""

    def __init__(self) -> None:
        self._pulls: dict[int, ParkedPull] = {}
        self._by_model: dict[str, dict[int, None]] = {}
        self._by_node: dict[str, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._pulls)

    def add(self, pull: ParkedPull) -> None:
        """Park a pull at the end of the line."""
        self._pulls[pull.pull_id] = pull
        self._by_node.setdefault(pull.node_id, {})[pull.pull_id] = None
        for model in pull.models:
            self._by_model.setdefault(model, {})[pull.pull_id] = None

    def remove(self, pull_id: int) -> ParkedPull | None:
        """Take a pull out; None when it was answered before."""
        pull = self._pulls.pop(pull_id, None)
        if pull is not None:
            _strike(self._by_node, pull.node_id, pull_id)
            for model in pull.models:
                _strike(self._by_model, model, pull_id)
        return pull

    def line(self, model_digest: str) -> Iterator[ParkedPull]:
        """Pulls that want tasks of one model, oldest first. Add and remove none meanwhile."""
        return map(self._pulls.__getitem__, self._by_model.get(model_digest, ()))

    def of(self, node_id: str) -> tuple[ParkedPull, ...]:
        """What one node waits for, oldest first; a snapshot."""
        return tuple(map(self._pulls.__getitem__, self._by_node.get(node_id, ())))

    def overdue(self, now: float) -> tuple[ParkedPull, ...]:
        """Pulls that waited long enough."""
        return tuple(pull for pull in self._pulls.values() if pull.until <= now)


def _strike(lines: dict[str, dict[int, None]], name: str, pull_id: int) -> None:
    del lines[name][pull_id]
    if not lines[name]:
        del lines[name]
