"""Pausing: what the owner says about the node or one GPU, brought to the core."""

from __future__ import annotations

from agent.core import events as ev
from agent.core.devices import uuids_of
from agent.core.errors import AgentError
from agent.core.orders import PauseOrder, ResumeOrder
from agent.stages.herald import Herald
from agent.stages.spine import Spine


class Pausing:
    """Knows which devices a name stands for."""

    def __init__(self, spine: Spine, herald: Herald) -> None:
        self._spine = spine
        self._herald = herald

    def pause(self, order: PauseOrder) -> None:
        """Raises AgentError for a GPU that this machine does not have."""
        self._spine.feed(
            ev.PauseAsked(
                for_s=order.for_s, hand_back_after_s=order.hand_back_after_s, devices=self._devices(order.gpu)
            )
        )

    def resume(self, order: ResumeOrder) -> None:
        """Raises AgentError for a GPU that this machine does not have."""
        self._spine.feed(ev.ResumeAsked(devices=self._devices(order.gpu)))

    def _devices(self, uuid: str) -> tuple[str, ...]:
        """A GPU and its slices; empty for the whole node. A GPU that is not read may still be a pool's."""
        if not uuid:
            return ()
        for gpu in self._herald.fingerprint.gpus:
            if uuid == gpu.uuid:
                return (uuid, *(part.uuid for part in gpu.mig))
        named = {part.uuid for gpu in self._herald.fingerprint.gpus for part in gpu.mig}
        named |= {device for pool in self._spine.node.pools.values() for device in uuids_of(pool)} - {"cpu"}
        if uuid not in named:
            raise AgentError(f"this node has no GPU {uuid!r}", remedy="`gpu-agent gpus` lists them with their UUIDs")
        return (uuid,)
