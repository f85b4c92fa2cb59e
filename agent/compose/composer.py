"""One agent: edges first, then the trunk, then the stages that hang on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from agent.compose.edges import Edges, Opener
from agent.compose.loops import BOUNDS_S, Loops, loops_of
from agent.compose.path import TaskPath, path_of
from agent.compose.trunk import Trunk, trunk_of
from agent.compose.upcalls import Upcalls
from agent.compose.watchers import Watchers, watchers_of
from agent.config import Config
from agent.core.watchdog import Pulse
from agent.edges.engines.build import PoolBuilder, build_pools
from agent.edges.models.store import Progress
from agent.edges.pauses import PausesFile
from agent.ports import Clock
from agent.stages.advertise import Advertise
from agent.stages.drain import Drain
from agent.stages.hearing import Hearing
from agent.stages.overview import Overview
from agent.stages.pausing import Pausing
from agent.stages.spine import Spine
from agent.stages.storage import StorageGate


class Parts(NamedTuple):
    """What runs."""

    spine: Spine
    advertise: Advertise
    watchers: Watchers
    drain: Drain
    overview: Overview
    pausing: Pausing
    hearing: Hearing
    pulse: Pulse
    storage: StorageGate
    loops: Loops


class Composer:
    """Builds one agent. What needs closing goes onto `stack`; `waits` is told what the start waits for, "" when it
    goes on."""

    def __init__(
        self,
        config: Config,
        name: str,
        clock: Clock,
        stack: contextlib.AsyncExitStack,
        progress: Progress,
        waits: Callable[[str], None],
        pools: PoolBuilder = build_pools,
    ) -> None:
        self._config = config
        self._name = name
        self._clock = clock
        self._stack = stack
        self._upcalls = Upcalls()
        self._opener = Opener(config, name, clock, stack, progress, waits, pools, self._upcalls)

    async def compose(self) -> Parts:
        """Open and wire everything; nothing runs yet. Raises AgentError."""
        config, clock = self._config, self._clock
        edges = await self._opener.open()
        trunk = trunk_of(config, edges, clock, Pulse(BOUNDS_S, started=clock.monotonic()), self._stack)
        self._upcalls.tell(trunk.storage)
        path = await path_of(config, edges, trunk)
        watchers = await watchers_of(config, edges, trunk)
        self._upcalls.probe = watchers.probe
        pausing = Pausing(trunk.spine, trunk.herald, PausesFile(config.node.state_dir))
        await pausing.restore()
        return self._parts(edges, trunk, path, watchers, pausing)

    def _parts(self, edges: Edges, trunk: Trunk, path: TaskPath, watchers: Watchers, pausing: Pausing) -> Parts:
        spine = trunk.spine
        advertise = self._advertise(trunk, path, watchers)
        return Parts(
            spine,
            advertise,
            watchers,
            Drain(spine, path.pull, path.deliver, trunk.link),
            self._overview(edges, trunk, path, watchers),
            pausing,
            path.hearing,
            trunk.pulse,
            trunk.storage,
            loops_of(trunk, path, watchers, advertise, edges.pools),
        )

    def _advertise(self, trunk: Trunk, path: TaskPath, watchers: Watchers) -> Advertise:
        return Advertise(
            trunk.spine,
            trunk.caller,
            trunk.herald,
            trunk.pulse,
            trunk.rng,
            drain_limit_s=self._config.node.drain_limit_s,
            hearing=path.hearing,
            attest=watchers.attest,
        )

    def _overview(self, edges: Edges, trunk: Trunk, path: TaskPath, watchers: Watchers) -> Overview:
        return Overview(
            trunk.spine,
            trunk.herald,
            path.execute,
            path.deliver,
            trunk.link,
            trunk.pulse,
            trunk.storage,
            watchers.probe,
            path.pull,
            watchers.release,
            path.hearing.docket,
            attested=watchers.attest.found,
            plan=watchers.owner.plan,
            name=self._name,
            url=edges.identity.enrolment.url,
        )
