"""Pausing: what the owner says about the node or one GPU, brought to the core, and kept for the agent's next life."""

from __future__ import annotations

import asyncio

import structlog

from agent.core import events as ev
from agent.core.devices import uuids_of
from agent.core.errors import AgentError, StorageError
from agent.core.orders import PauseOrder, ResumeOrder
from agent.core.pauses import NODE, KeptPause, standing
from agent.ports import Pauses
from agent.stages.herald import Herald
from agent.stages.spine import Spine


class Pausing:
    """Knows which devices a name stands for, and what of all pauses is to outlive a crash: the owner's, and
    not the coordinator's."""

    def __init__(self, spine: Spine, herald: Herald, pauses: Pauses) -> None:
        self._spine = spine
        self._herald = herald
        self._pauses = pauses
        self._kept: dict[str, KeptPause] = {}
        self._writing = asyncio.Lock()
        self._log = structlog.get_logger("pausing")

    async def restore(self) -> None:
        """Pause what was paused when the agent last ended, before anything is pulled. What was, where that cannot be
        read, is for the owner to say: until then nothing is taken."""
        wall = self._spine.clock.wall()
        try:
            self._kept = standing(await asyncio.to_thread(self._pauses.load), wall)
        except StorageError as error:
            self._log.error("pauses.unreadable", detail=str(error))
            self._kept = {NODE: KeptPause(device=NODE)}
            self._spine.feed(ev.PauseAsked(why=f"whether you paused before the restart is not known: {error}"))
            return
        for pause in self._kept.values():
            devices = () if pause.device == NODE else self._with_slices(pause.device)
            self._log.info("pause.goes_on", device=pause.device or None, left_s=pause.left_s(wall))
            self._spine.feed(ev.PauseAsked(for_s=pause.left_s(wall), devices=devices))

    async def pause(self, order: PauseOrder) -> None:
        """Raises AgentError for a GPU that this machine does not have, and StorageError, when it is paused, for a pause
        that would not outlive a crash."""
        devices = self._devices(order.gpu)
        self._spine.feed(
            ev.PauseAsked(for_s=order.for_s, hand_back_after_s=order.hand_back_after_s, devices=devices),
        )
        if not devices and not self._spine.node.is_paused:
            return  # the owner had it drain, and a drain is not kept
        until_at = None if order.for_s is None else self._spine.clock.wall() + order.for_s
        self._kept |= {device: KeptPause(device=device, until_at=until_at) for device in devices or (NODE,)}
        await self._keep("It is paused now, but would not be after a restart")

    async def resume(self, order: ResumeOrder) -> None:
        """Raises AgentError for a GPU that this machine does not have, and StorageError, when it is resumed, for a
        pause that a crash would bring back."""
        devices = self._devices(order.gpu)
        self._spine.feed(ev.ResumeAsked(devices=devices))
        for device in devices or tuple(self._kept):
            self._kept.pop(device, None)
        await self._keep("It is resumed now, but a restart would bring the pause back")

    async def _keep(self, otherwise: str) -> None:
        async with self._writing:
            kept = tuple(standing(self._kept.values(), self._spine.clock.wall()).values())
            try:
                await asyncio.to_thread(self._pauses.keep, kept)
            except StorageError as error:
                raise StorageError(str(error), full=error.full, remedy=otherwise) from error

    def _devices(self, uuid: str) -> tuple[str, ...]:
        """A GPU and its slices; empty for the whole node. A GPU that is not read may still be a pool's."""
        if not uuid:
            return ()
        named = {device for pool in self._spine.node.pools.values() for device in uuids_of(pool)} - {"cpu"}
        for gpu in self._herald.fingerprint.gpus:
            named |= {gpu.uuid, *(part.uuid for part in gpu.mig)}
        if uuid not in named:
            raise AgentError(f"this node has no GPU {uuid!r}", remedy="`gpu-agent gpus` lists them with their UUIDs")
        return self._with_slices(uuid)

    def _with_slices(self, uuid: str) -> tuple[str, ...]:
        slices = (part.uuid for gpu in self._herald.fingerprint.gpus if gpu.uuid == uuid for part in gpu.mig)
        return (uuid, *slices)
