"""Release: stops engines on GPUs while their owner wants the memory, and measures that he gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from agent.core.devices import uuids_of
from agent.core.gpu import GpuReport
from agent.core.model import Reason
from agent.core.release import UNLOADS, Holding, Released, Taken, judge
from agent.ports import EngineMemory
from agent.stages.engines import Engine
from agent.stages.spine import Spine

_CPU = "cpu"


@dataclass(slots=True)
class _Leaving:
    """An engine that was told to end."""

    holding: Holding
    since: float
    last: Released
    warned: bool = False


class Release:
    """Looks at every reading what the owner wants, and what the GPUs say."""

    def __init__(
        self, spine: Spine, engines: Mapping[str, Engine], memory: EngineMemory, *, unload: bool = True
    ) -> None:
        """`engines`: those that the agent may stop, by pool; `unload`: whether their owner wants that."""
        self._spine = spine
        self._engines = engines
        self._memory = memory
        self._leaving: dict[str, _Leaving] = {}
        self.unload = unload
        """May change; an engine that rests then starts again with the next reading."""
        self._log = structlog.get_logger("gpu")

    def see(self, report: GpuReport) -> None:
        """Take in a reading."""
        now = self._spine.clock.monotonic()
        for name, leaving in self._leaving.items():
            if not leaving.last.done:
                self._judge(name, leaving, report, now)
        for name, engine in self._engines.items():
            self._ask(name, engine, now)

    def unloads(self, pool: str) -> bool:
        """Whether this pool's engine is stopped when the owner wants the memory."""
        return self.unload and pool in self._engines and self._engines[pool].facts.device != _CPU

    def taken(self, pool: str) -> Taken:
        """How much memory its engine takes."""
        return self._memory.taken(pool)

    def used(self) -> dict[str, int]:
        """What all engines take of each GPU or slice."""
        return self._memory.used()

    def released(self, pool: str) -> Released | None:
        """How far it is; None while the engine is not told to end."""
        return self._leaving[pool].last if pool in self._leaving else None

    def _ask(self, name: str, engine: Engine, now: float) -> None:
        """Tell the engine to end once nothing runs there any more, or to start again."""
        reasons = self._reasons(name) if self.unloads(name) else frozenset[Reason]()
        if not reasons:
            if engine.wanted_at_rest:
                self._leaving.pop(name, None)
                engine.wake()
        elif not engine.wanted_at_rest and not self._spine.node.busy(name):
            holding = self._memory.holding(name) or Holding(bytes_by_gpu={}, pids=frozenset())
            first = Released(held_bytes=holding.total_bytes, released_bytes=0, seconds=0.0, done=False)
            self._leaving[name] = _Leaving(holding, now, first)
            words = ", ".join(sorted(reason.value for reason in reasons))
            self._log.info("engine.unloading", pool=name, mib=holding.total_bytes >> 20, reasons=words)
            engine.rest(f"unloaded for its owner ({words})")

    def _reasons(self, pool: str) -> frozenset[Reason]:
        node = self._spine.node
        return node.reasons(uuids_of(node.pools[pool])) & UNLOADS

    def _judge(self, name: str, leaving: _Leaving, report: GpuReport, now: float) -> None:
        ended = self._engines[name].at_rest
        leaving.last = judge(leaving.holding, report, ended=ended, seconds=now - leaving.since)
        told = {"pool": name, "mib": leaving.last.released_bytes >> 20, "seconds": round(leaving.last.seconds, 2)}
        if leaving.last.done:
            self._log.info("gpu.released", gpus=sorted(leaving.holding.bytes_by_gpu), **told)
        elif leaving.last.detail and not leaving.warned:
            self._log.warning("gpu.unreleased", detail=leaving.last.detail, **told)
            leaving.warned = True
