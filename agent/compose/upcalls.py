"""The two calls that go from an edge up to a stage, though the stage is made after it."""

from __future__ import annotations

import structlog

from agent.core.gpu import GpuPlace
from agent.stages.probe import Probe
from agent.stages.storage import StorageGate

_log = structlog.get_logger("agent")


class Upcalls:
    """Given to edges when they open, connected when the stages stand."""

    def __init__(self) -> None:
        self.probe: Probe | None = None
        """Set as soon as there is one."""
        self._storage: StorageGate | None = None
        self._damage: list[str] = []
        """What was found before there was anybody to tell."""

    def place_of(self, uuid: str) -> GpuPlace | None:
        """By the latest reading: a GPU may appear, or move, after the start. No engine starts before the probe runs."""
        return self.probe.place_of(uuid) if self.probe else None

    def outbox_damaged(self, what: str) -> None:
        """Something that waited for a receipt is lost."""
        self._damaged("outbox.recovered", what)

    def proofs_damaged(self, what: str) -> None:
        """Something of challenges and judgements is lost."""
        self._damaged("proofs.recovered", what)

    def tell(self, storage: StorageGate) -> None:
        """From now on `storage` hears of damage; first of what was found before."""
        self._storage = storage
        for what in self._damage:
            storage.damaged(what)

    def _damaged(self, event: str, what: str) -> None:
        _log.error(event, detail=what)
        if self._storage is None:
            self._damage.append(what)
        else:
            self._storage.damaged(what)
