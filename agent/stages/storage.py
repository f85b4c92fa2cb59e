"""The gate that shuts while the disk takes nothing: what is done waits in memory, and no new work comes in."""

from __future__ import annotations

import structlog

from agent.core import events as ev
from agent.core.errors import StorageError
from agent.core.model import LeaseKey, Reason
from agent.stages.spine import Spine

RETRY_S = 5.0


class StorageGate:
    """One for all stages that write. It opens when every write that failed has gone through or was given up."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine
        self._log = structlog.get_logger("storage")
        self._waiting: set[LeaseKey] = set()

    async def fails(self, key: LeaseKey, error: StorageError) -> None:
        """Shut the gate, and return when it is time to try the write again."""
        self.shut(key, error)
        await self._spine.clock.sleep(RETRY_S)

    def shut(self, key: LeaseKey, error: StorageError) -> None:
        """Take no new work, for the reason that `gpu-agent status` then shows."""
        if not self._waiting:
            self._log.error("storage.unwritable", task=key.task_id, full=error.full, detail=str(error))
        self._waiting.add(key)
        self._spine.feed(ev.GateChanged(reason=Reason.STORAGE_FULL, shut=True, detail=str(error)))

    def works(self, key: LeaseKey) -> None:
        """What was to be written for `key` is written, or not wanted any more."""
        if key in self._waiting:
            self._waiting.discard(key)
            if not self._waiting:
                self._log.info("storage.writable")
                self._spine.feed(ev.GateChanged(reason=Reason.STORAGE_FULL, shut=False))
