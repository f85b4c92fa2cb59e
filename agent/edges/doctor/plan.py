"""Which checks there are, in the order of the report."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from agent.config import Config, EngineKind
from agent.core import gpu_judgements
from agent.core import judgements as judge
from agent.core.doctor import Finding
from agent.core.fingerprint import GpuStanding
from agent.core.status import PoolStatus
from agent.edges.clock import SystemClock
from agent.edges.doctor import coordinator, engines, isolation, machine, owner
from agent.edges.doctor.checkup import Look, local
from agent.edges.gpu.judging import judged_at_once
from agent.edges.gpu.probe import OPEN_PATIENCE_S, NoGpuProbe, NvmlProbe
from agent.edges.sandbox.build import build_sandbox
from agent.edges.sandbox.oci.backend import Oci
from agent.ports import GpuProbe


def plan(
    config: Config,
    file: str,
    faults: list[str],
    standings: Sequence[GpuStanding] = (),
    pools: Sequence[PoolStatus] = (),
) -> list[tuple[str, Look]]:
    """(id, check). `standings`, `pools`: how they are by the daemon that runs, if one does.

    With a faulty configuration `config` holds defaults, so what depends on its content is left out.
    """

    async def configuration() -> list[Finding]:
        return [
            judge.configuration(file, faults),
            *([] if faults else [judge.pools(len(config.pools) + config.exec.enabled)]),
        ]

    looks: list[tuple[str, Look]] = [
        ("python.version", local(machine.python)),
        ("config.valid", configuration),
        *_state(config),
        ("clock.sane", local(machine.clock)),
        ("limits.open_files", local(machine.open_files)),
        *_sandbox(config),
        ("gpu.driver", partial(_gpus, config, standings)),
    ]
    if not faults:
        looks += [(f"engine.{pool.name}", local(partial(engines.engine, pool))) for pool in config.pools]
        looks += [(f"model.{model.name}", local(partial(engines.model, model))) for model in config.models]
        looks += _calibrations(config)
        looks.append(("proof.retention", local(partial(judge.retention, config.proof.retention_s))))
        chosen = config.coordinator
        looks.append(("coordinator.reachable", partial(coordinator.look, chosen.url, chosen.ca_file)))
        looks.append(("engine.memory", partial(asyncio.to_thread, owner.engine_memory, config, pools)))
    if config.owner.idle_only:
        looks.append(("owner.presence", local(owner.at_the_machine)))
    return [*looks, ("service.state", local(machine.service))]


def _state(config: Config) -> list[tuple[str, Look]]:
    node = config.node
    return [
        ("state.writable", local(partial(machine.directory, "state.writable", node.state_dir, "keys, outbox, ledger"))),
        (
            "cache.writable",
            local(partial(machine.directory, "cache.writable", node.cache_dir, "what can be made again")),
        ),
        ("key.mode", local(partial(machine.key_file, config.key_file))),
        ("disk.free", local(partial(machine.disk, node.state_dir))),
    ]


def _sandbox(config: Config) -> list[tuple[str, Look]]:
    made = build_sandbox(config.sandbox, config.node.runtime_dir)
    programs = [("exec.works", partial(isolation.programs, made, config.exec))] if config.exec.enabled else []
    if isinstance(made, Oci):
        return [
            ("sandbox.engine", local(partial(isolation.engine, made))),
            ("sandbox.works", partial(isolation.containers, made)),
            *programs,
        ]
    return [
        ("sandbox.bwrap", partial(isolation.bwrap, config.sandbox.bwrap)),
        ("sandbox.works", partial(isolation.sandbox, made)),
        *programs,
    ]


def _calibrations(config: Config) -> list[tuple[str, Look]]:
    shared = [pool for pool in config.pools if pool.engine is EngineKind.LLAMA_SERVER and pool.slots > 1]
    return [
        ("proof.calibrations", local(partial(engines.calibrations, config.proof))),
        ("proof.validate", local(partial(engines.validators, config))),
        *((f"proof.{pool.name}", local(partial(engines.verifiable, config, pool))) for pool in shared),
    ]


async def _gpus(config: Config, standings: Sequence[GpuStanding]) -> list[Finding]:
    # A single patient question: there is no next snapshot that would tell more.
    probe: GpuProbe = NoGpuProbe()
    if config.gpu.enabled:
        probe = NvmlProbe(SystemClock(), library=config.gpu.library, deadline_s=OPEN_PATIENCE_S)
    wanted = [uuid for pool in config.pools if pool.device not in ("cpu", "auto") for uuid in pool.device.split("+")]
    try:
        report = await probe.snapshot()
        known = standings or await asyncio.to_thread(judged_at_once, report, config.node.state_dir)
        return [
            *gpu_judgements.driver(report, enabled=config.gpu.enabled, wanted=wanted),
            *gpu_judgements.health(known),
            *gpu_judgements.power_limit(report, config.owner.power_limit_w),
        ]
    finally:
        await probe.close()
