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


class Watchers(NamedTuple):
    """What keeps work away when the machine cannot or must not take it."""

    probe: Probe
    owner: Owner
    release: Release
    attest: Attest


async def watchers_of(config: Config, edges: Edges, trunk: Trunk) -> Watchers:
    """What was found before the last restart is known when it returns."""
    spine = trunk.spine
    engines = {name: Engine(pool) for name, pool in edges.pools.items()}
    release = Release(spine, {name: engines[name] for name in unloaded_pools(config)}, edges.gpu_room)
    probe = await _probe(config, edges, trunk, engines, release)
    matrix = MatrixChildren(reserve_bytes=config.gpu.reserve_mib << 20, rooms=lambda: rooms(probe.report))
    attest = Attest(spine, trunk.caller, matrix if config.gpu.attest else None)
    return Watchers(probe, _owner(config, trunk), release, attest)


async def _probe(config: Config, edges: Edges, trunk: Trunk, engines: dict[str, Engine], release: Release) -> Probe:
    protect = _protect(config, edges, trunk)
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
        seen=partial(_each, (edges.gpu_memory.see, edges.gpu_room.see, protect.see, release.see)),
    )


async def _vitals(config: Config, trunk: Trunk) -> Vitals:
    findings = FindingsFile(config.node.state_dir)
    health = Health(xid_table(), trunk.host.facts().boot_id, await asyncio.to_thread(findings.load))
    return Vitals(trunk.spine, health, findings, period_s=config.gpu.period_s, cards=card_table())


def _protect(config: Config, edges: Edges, trunk: Trunk) -> Protect:
    gates = GpuGates(gpu_policy(config.owner), lent_gpus(config))
    return Protect(trunk.spine, gates, edges.gpu_memory.others, hand_back_after_s=_hand_back_after_s(config))


def _owner(config: Config, trunk: Trunk) -> Owner:
    owner = config.owner
    machine = Machine(owner.programs, battery=not owner.on_battery, presence=owner.idle_only)
    return Owner(trunk.spine, owner_policy(owner), machine, trunk.pulse, hand_back_after_s=_hand_back_after_s(config))


def _hand_back_after_s(config: Config) -> float | None:
    return config.owner.hand_back_after_s if config.owner.running is Running.HAND_BACK else None


def lent_gpus(config: Config) -> frozenset[str]:
    """Where engines compute that are not ours to start."""
    pools = (pool for pool in config.pools if pool.engine is EngineKind.EXTERNAL)
    return frozenset(uuid for pool in pools for uuid in pool.device.split("+"))


def unloaded_pools(config: Config) -> tuple[str, ...]:
    """Pools whose engines are stopped while the owner wants the memory: those that the agent starts."""
    own = (pool.name for pool in config.pools if pool.engine is not EngineKind.EXTERNAL)
    return tuple(own) if config.owner.unload else ()


def _each(sees: Sequence[Callable[[GpuReport], None]], report: GpuReport) -> None:
    for see in sees:
        see(report)
