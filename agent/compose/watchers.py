"""The stages that watch the machine: its GPUs, its engines and its owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from agent.compose.edges import Edges
from agent.compose.trunk import Trunk
from agent.config import Config, EngineKind, Running
from agent.core.gpu import GpuReport
from agent.core.gpu_policy import GpuGates
from agent.core.health import Health
from agent.core.placement import rooms
from agent.edges.gpu.findings import FindingsFile
from agent.edges.gpu.matrix_children import MatrixChildren
from agent.edges.gpu.models import card_table
from agent.edges.gpu.xids import xid_table
from agent.edges.owner import Machine, gpu_policy, owner_policy
from agent.stages.attest import Attest
from agent.stages.engines import Engine
from agent.stages.owner import Owner
from agent.stages.probe import Probe
from agent.stages.protect import Protect
from agent.stages.release import Release
from agent.stages.vitals import Vitals

See = Callable[[GpuReport], None]
"""Told of every reading."""


class Watchers(NamedTuple):
    """What keeps work away when the machine cannot or must not take it."""

    probe: Probe
    owner: Owner
    protect: Protect
    release: Release
    attest: Attest

    def obey(self, config: Config) -> None:
        """What its owner says now (section `owner`) holds from the next look on, without a restart."""
        hand_back_after_s = _hand_back_after_s(config)
        self.owner.obey(owner_policy(config.owner), _machine(config), hand_back_after_s=hand_back_after_s)
        self.protect.obey(gpu_policy(config.owner), hand_back_after_s=hand_back_after_s)
        self.release.unload = config.owner.unload


async def watchers_of(config: Config, edges: Edges, trunk: Trunk) -> Watchers:
    """What was found before the last restart is known when it returns."""
    spine = trunk.spine
    engines = {name: Engine(pool) for name, pool in edges.pools.items()}
    own = {name: engines[name] for name in own_pools(config)}
    release = Release(spine, own, edges.gpu_room, unload=config.owner.unload)
    protect = _protect(config, edges, trunk)
    probe = await _probe(config, edges, trunk, engines, (protect.see, release.see))
    matrix = MatrixChildren(reserve_bytes=config.gpu.reserve_mib << 20, rooms=lambda: rooms(probe.report))
    attest = Attest(spine, trunk.caller, matrix if config.gpu.attest else None)
    return Watchers(probe, _owner(config, trunk), protect, release, attest)


async def _probe(config: Config, edges: Edges, trunk: Trunk, engines: dict[str, Engine], sees: Sequence[See]) -> Probe:
    return Probe(
        trunk.spine,
        trunk.herald,
        edges.gpu,
        trunk.host,
        engines,
        trunk.pulse,
        models=edges.models,
        sandbox=edges.sandbox,
        period_s=config.gpu.period_s,
        report=edges.seen,
        vitals=await _vitals(config, trunk),
        seen=partial(_each, (edges.gpu_memory.see, edges.gpu_room.see, *sees)),
    )


async def _vitals(config: Config, trunk: Trunk) -> Vitals:
    findings = FindingsFile(config.node.state_dir)
    health = Health(xid_table(), trunk.host.facts().boot_id, await asyncio.to_thread(findings.load))
    return Vitals(trunk.spine, health, findings, period_s=config.gpu.period_s, cards=card_table())


def _protect(config: Config, edges: Edges, trunk: Trunk) -> Protect:
    gates = GpuGates(gpu_policy(config.owner), lent_gpus(config))
    return Protect(trunk.spine, gates, edges.gpu_memory.others, hand_back_after_s=_hand_back_after_s(config))


def _owner(config: Config, trunk: Trunk) -> Owner:
    policy, limit_s = owner_policy(config.owner), _hand_back_after_s(config)
    return Owner(trunk.spine, policy, _machine(config), trunk.pulse, hand_back_after_s=limit_s)


def _machine(config: Config) -> Machine:
    owner = config.owner
    return Machine(owner.programs, battery=not owner.on_battery, presence=owner.idle_only)


def _hand_back_after_s(config: Config) -> float | None:
    return config.owner.hand_back_after_s if config.owner.running is Running.HAND_BACK else None


def lent_gpus(config: Config) -> frozenset[str]:
    """Where engines compute that are not ours to start."""
    pools = (pool for pool in config.pools if pool.engine is EngineKind.EXTERNAL)
    return frozenset(uuid for pool in pools for uuid in pool.device.split("+"))


def own_pools(config: Config) -> tuple[str, ...]:
    """Those whose engines the agent starts, and may stop."""
    return tuple(pool.name for pool in config.pools if pool.engine is not EngineKind.EXTERNAL)


def _each(sees: Sequence[See], report: GpuReport) -> None:
    for see in sees:
        see(report)
