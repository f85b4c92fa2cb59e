"""What the disk keeps from happening: the gate that shuts while it takes nothing, and what was found damaged on it."""

from __future__ import annotations

import structlog

from agent.core import events as ev
from agent.core.errors import StorageError
from agent.core.model import LeaseKey, Reason
from agent.core.status import StorageStatus
from agent.ports import Room
from agent.stages.spine import Spine

RETRY_S = 5.0
RESERVE_SHARE = 16
"""No new task is taken when less than this part of the transcripts' quota is left: what runs still has room then."""


class StorageGate:
    """One for all stages that write. It opens when every write that failed has gone through or was given up, and
    there is room for what comes."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine
        self._log = structlog.get_logger("storage")
        self._waiting: set[LeaseKey] = set()
        self._room = Room(used_bytes=0, quota_bytes=0)
        self._crowded = False
        self._damage: list[str] = []

    async def fails(self, key: LeaseKey, error: StorageError) -> None:
        """Shut the gate, and return when it is time to try the write again."""
        self.shut(key, error)
        await self._spine.clock.sleep(RETRY_S)

    def shut(self, key: LeaseKey, error: StorageError) -> None:
        """Take no new work, for the reason that `gpu-agent status` then shows."""
        if not self._waiting:
            self._log.error("storage.unwritable", task=key.task_id, full=error.full, detail=str(error))
        self._waiting.add(key)
        self._feed(str(error))

    def works(self, key: LeaseKey) -> None:
        """What was to be written for `key` is written, or not wanted any more."""
        if key in self._waiting:
            self._waiting.discard(key)
            if not self._waiting:
                self._log.info("storage.writable")
                self._feed(_crowd(self._room) if self._crowded else "")

    def measured(self, room: Room) -> None:
        """How full the transcripts' quota is: before it is, no new task is begun whose transcript would not fit."""
        self._room = room
        crowded = room.quota_bytes - room.used_bytes < room.quota_bytes // RESERVE_SHARE
        if crowded == self._crowded:
            return
        self._crowded = crowded
        if crowded:
            self._log.error("transcripts.crowded", used_bytes=room.used_bytes, quota_bytes=room.quota_bytes)
        else:
            self._log.info("transcripts.uncrowded", used_bytes=room.used_bytes)
        if not self._waiting:
            self._feed(_crowd(room) if crowded else "")

    def damaged(self, what: str) -> None:
        """Something that was kept is lost: told until the owner says that it was seen. Work goes on."""
        self._damage.append(what)
        self._spine.wake()

    def acknowledged(self) -> None:
        """The owner has seen what was damaged."""
        self._damage.clear()

    def status(self) -> StorageStatus:
        """For `gpu-agent status`."""
        return StorageStatus(
            transcripts_bytes=self._room.used_bytes,
            transcripts_quota_bytes=self._room.quota_bytes,
            damage=tuple(self._damage),
        )

    def _feed(self, why: str) -> None:
        self._spine.feed(ev.GateChanged(reason=Reason.STORAGE_FULL, shut=bool(why), detail=why))


def _crowd(room: Room) -> str:
    return (
        f"transcripts fill {room.used_bytes >> 20} of {room.quota_bytes >> 20} MiB, and are deleted as their time "
        "passes. Raise proof.retention_mib or shorten proof.retention_s"
    )
